//! The import of contacts under faults: real services, real files, and a model that says what must come out.
//!
//! **Flow.** A [`Sheet`] is a file with everything in it that people write, and what must become of it; an [`Owner`] is the model that
//! it changes. An [`ImportStage`] is one test's topics and database, a [`Member`] a service on it that can be killed. An [`Upload`]
//! sends a file as no library would: in part, or to a service that dies. A [`Browser`] listens at one notifier after the other with its
//! last cursor, and holds every frame against what frames promise. `judge` compares everything that can be asked for.
//!
//! **Absent.** Code of the services: their routes, topics and tables are the contract (`docs/import.md`).

mod browser;
mod cast;
mod crowd;
mod faults;
mod judge;
mod sheet;
mod stage;
mod torture;
mod upload;

pub use browser::{Browser, Frame, Socket, channel, connect};
pub use crowd::import_storm;
pub use sheet::{Counts, Fault, Owner, Sheet};
pub use stage::{ImportStage, Member, import_scenario};
pub use torture::{ImportTorture, import_torture};
pub use upload::{Answer, Upload};

use std::time::{Duration, Instant};

/// Bound of everything that is waited for; far beyond what it takes on a machine that others use too.
pub(crate) const DEADLINE: Duration = Duration::from_secs(240);

/// Tells what happens, in a test's captured output or on the terminal.
#[expect(clippy::print_stdout, reason = "the progress of a run is what its caller sees")]
fn say(started: Instant, what: &str) {
    println!("{:7.1} s  {what}", started.elapsed().as_secs_f64());
}
