//! What `check-config` found, one thing at a time: how grave it is, why it matters, and what to do. Pure.

use std::io::{self, Write};

use anstyle::Style;
use serde::Serialize;

use crate::commands::table::{BAD, DOUBTFUL, GOOD, HEAD};

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    /// As it should be.
    Ok,
    /// `run` works, and somebody should act all the same.
    Warning,
    /// `run` does not start, or breaks a promise.
    Problem,
}

impl Grade {
    fn shown(self) -> (Style, &'static str) {
        match self {
            Self::Ok => (GOOD, "ok"),
            Self::Warning => (DOUBTFUL, "warning"),
            Self::Problem => (BAD, "problem"),
        }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at, for scripts.
    pub(super) check: &'static str,
    /// How grave it is.
    pub(super) grade: Grade,
    /// What was found.
    pub(super) found: String,
    /// Why it matters; none when all is well.
    pub(super) why: Option<String>,
    /// What to do; none when all is well.
    pub(super) fix: Option<String>,
}

impl Finding {
    /// All is well.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, found: found.into(), why: None, fix: None }
    }

    /// Somebody should act.
    pub(super) fn warning(
        check: &'static str,
        found: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (why, fix) = (Some(why.into()), Some(fix.into()));
        Self { check, grade: Grade::Warning, found: found.into(), why, fix }
    }

    /// Somebody must act.
    pub(super) fn problem(
        check: &'static str,
        found: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { grade: Grade::Problem, ..Self::warning(check, found, why, fix) }
    }

    /// For people: a line, and two more below it if there is something to do.
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let (style, grade) = self.grade.shown();
        writeln!(out, "{style}{grade:<7}{style:#}  {:<18}  {}", self.check, self.found)?;
        for (name, text) in [("why", &self.why), ("do", &self.fix)] {
            if let Some(text) = text {
                writeln!(out, "{:<7}  {:<18}  {HEAD}{name}{HEAD:#}: {text}", "", "")?;
            }
        }
        Ok(())
    }
}

/// `3 ok, 1 warning, 0 problems`.
pub(super) fn summary(findings: &[Finding]) -> String {
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let of = |count: usize, name: &str| format!("{count} {name}{}", if count == 1 { "" } else { "s" });
    let (warnings, problems) = (count(Grade::Warning), count(Grade::Problem));
    format!("{} ok, {}, {}", count(Grade::Ok), of(warnings, "warning"), of(problems, "problem"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_why_and_what_to_do() {
        let finding = Finding::warning("fsync", "is off", "rows may be gone", "set it to on");
        let mut out = anstream::StripStream::new(Vec::new());
        finding.print(&mut out).unwrap();
        assert_eq!(
            String::from_utf8(out.into_inner()).unwrap(),
            "warning  fsync               is off\n\
             \x20                            why: rows may be gone\n\
             \x20                            do: set it to on\n"
        );
        assert_eq!(
            serde_json::to_string(&finding).unwrap(),
            r#"{"check":"fsync","grade":"warning","found":"is off","why":"rows may be gone","fix":"set it to on"}"#
        );
        assert_eq!(summary(&[finding, Finding::ok("a", "b")]), "1 ok, 1 warning, 0 problems");
    }
}
