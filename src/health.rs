//! Whether this process is alive and ready, for `/healthz`, `/readyz`, the status page and systemd: one
//! judgement, asked for by all of them.

use serde::{Deserialize, Serialize};

/// A yes, or a no with its reasons.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Whether all is well.
    pub is_ok: bool,
    /// What is not, a sentence each; or, when all is well, what is worth knowing.
    pub reasons: Vec<String>,
}
