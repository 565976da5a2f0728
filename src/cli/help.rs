//! What `--help` and the man page say below the options: the exit codes of each command. [`super::exit_code`] gives them names.

macro_rules! exit_codes {
    ($($line:literal)*) => { concat!("Exit codes:", $("\n  ", $line),*) };
}

/// All of them.
pub(super) const ALL: &str = exit_codes!(
    "0    done, or stopped by a signal with everything in flight written and committed"
    "1    a stage failed; the message names it and the cause (restart: yes); status: not alive or not ready"
    "2    the command line or the configuration is wrong (restart: no)"
    "3    a server refuses us, the database is not migrated, or another instance has our KAFKA_GROUP_INSTANCE_ID\n       (restart: no); status: nobody answers"
    "4    shutdown took longer than DRAIN_TIMEOUT (nothing is lost; restart: yes)"
    "5    events were deleted from Kafka before they were read; see --accept-loss (restart: no)"
    "6    the audit found an inconsistency (audit only)"
    "7    too many messages are no valid events; see --dead-letter-max-ratio (restart: no)"
    "130  stopped at once by a second SIGINT (nothing is lost); 143 by a second SIGTERM"
);

/// `run`.
pub(super) const RUN: &str = exit_codes!(
    "0    stopped by SIGTERM or SIGINT with everything in flight written and committed, or --stop-at-end is done"
    "1    a stage failed, or the database has lost commits; the message names the cause (restart: yes)"
    "2    the command line or the configuration is wrong (restart: no)"
    "3    PostgreSQL or Kafka refuses us, the database is not migrated, or another instance has our KAFKA_GROUP_INSTANCE_ID\n       (restart: no)"
    "4    shutdown took longer than DRAIN_TIMEOUT; nothing is lost (restart: yes)"
    "5    events were deleted from Kafka before they were read; see --accept-loss (restart: no)"
    "7    too many messages are no valid events; see --dead-letter-max-ratio (restart: no)"
    "130  stopped at once by a second SIGINT (nothing is lost); 143 by a second SIGTERM"
);

/// `check-config`.
pub(super) const CHECK_CONFIG: &str = exit_codes!(
    "0    `run` would work, warnings or not"
    "1    standard output is closed"
    "2    the command line or the configuration is wrong: every mistake is told"
    "3    there is a problem: a server cannot be used as configured, or a promise would be broken"
);

/// `migrate` and its actions.
pub(crate) const MIGRATE: &str = exit_codes!(
    "0    done, or there was nothing to do"
    "2    the command line or the configuration is wrong"
    "3    the database cannot be reached, or refuses; --drop-rows is missing; what is there cannot be adopted"
);

/// `dead-letters` and its actions.
pub(crate) const DEAD_LETTERS: &str = exit_codes!(
    "0    done, or no letter was meant"
    "1    there is no such letter; the database failed on the way; the output cannot be written"
    "2    the command line or the configuration is wrong; a purge without --yes"
    "3    the database cannot be reached, refuses us, or is not migrated"
);

/// `maintain`.
pub(super) const MAINTAIN: &str = exit_codes!(
    "0    done, or nothing was due"
    "1    a round or an index failed; what was done before stays"
    "2    the command line or the configuration is wrong"
    "3    the database cannot be reached or is not migrated, or the role does not own the tables"
);

/// `audit`.
pub(super) const AUDIT: &str = exit_codes!(
    "0    everything adds up"
    "1    the audit could not be ended, and says nothing"
    "2    the command line or the configuration is wrong"
    "3    the database cannot be reached, refuses us, or is not migrated"
    "6    something does not add up"
);

/// `rewind`.
pub(super) const REWIND: &str = exit_codes!(
    "0    rewound"
    "1    a server gave no answer; the message says whether the ledger is rewound"
    "2    the command line or the configuration is wrong"
    "3    the group is active, there is nothing to rewind, Kafka has no such messages any more, or a server refuses us"
);

/// `smoke`.
pub(super) const SMOKE: &str = exit_codes!(
    "0    all seven steps passed"
    "1    a step after the first failed; the message says what to do"
    "2    the command line or the configuration is wrong"
    "3    a server cannot be used; nothing was sent"
);

/// `generate`.
pub(super) const GENERATE: &str = exit_codes!(
    "0    all messages are acknowledged, or those that were sent before a signal"
    "1    Kafka did not take them, or a file could not be written"
    "2    the command line is wrong"
    "130  stopped at once by a second signal"
);

/// `latency`.
pub(super) const LATENCY: &str = exit_codes!(
    "0    printed or drawn"
    "1    a file could not be read or written"
    "2    the command line is wrong"
);

/// `status`.
pub(super) const STATUS: &str = exit_codes!(
    "0    alive and ready; with --alive: alive"
    "1    it answers, and is not alive or not ready; with --alive: not alive"
    "2    the command line is wrong, or METRICS_ADDR says that nobody listens"
    "3    nobody answers, or not a usage-processor"
);

/// `generate-docs`.
pub(super) const GENERATE_DOCS: &str = exit_codes!(
    "0    written"
    "1    a file could not be written"
    "2    the command line is wrong"
);

/// `demo`.
pub(super) const DEMO: &str = exit_codes!(
    "0    every figure is right"
    "1    a figure is off, or a server failed"
    "2    the command line or the configuration is wrong"
    "3    the database cannot be reached"
);

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use super::super::{Cli, exit_code};

    /// Every command, also those of commands.
    fn for_each(command: &Command, check: &mut impl FnMut(&Command)) {
        check(command);
        command.get_subcommands().for_each(|command| for_each(command, check));
    }

    #[test]
    fn every_command_tells_its_exit_codes() {
        let mut count = 0;
        for_each(&Cli::command(), &mut |command| {
            let help = command.clone().render_long_help().to_string();
            let (_, codes) =
                help.split_once("Exit codes:\n").unwrap_or_else(|| panic!("{}", command.get_name()));
            assert!(codes.contains("\n  2    "), "{}: {codes}", command.get_name());
            count += 1;
        });
        assert!(count > 15, "{count}");
    }

    #[test]
    fn the_program_tells_them_all() {
        use exit_code::{
            CONFIGURATION, DRAIN_TIMEOUT, EVENTS_LOST, FAILED, INCONSISTENT, MOSTLY_REJECTED, REFUSED,
        };
        for code in
            [FAILED, CONFIGURATION, REFUSED, DRAIN_TIMEOUT, EVENTS_LOST, INCONSISTENT, MOSTLY_REJECTED]
        {
            assert!(super::ALL.contains(&format!("\n  {code}    ")), "{code}");
        }
    }
}
