//! What `demo` is made of; `commands/demo.rs` tells the story.
//!
//! ```text
//! target      where the demo works: an empty database, a topic and a group of its own
//! processor   `usage-processor run` as a child process, and what it costs
//! progress    bars on a terminal, plain lines elsewhere
//! offsets     how far the group is
//! measure     what the database holds
//! figures     what it must hold by the generator's truth, and every difference
//! screen      the one screen at the end
//! ```
//!
//! Everything that is checked is read from outside of the processor: by SQL and by the broker's
//! offsets.

pub mod target;
pub mod processor;
pub mod progress;
pub mod offsets;
pub mod figures;
pub mod measure;
pub mod screen;
