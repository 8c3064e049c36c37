//! What the whole-system tests stand on: the release binaries as child processes, a real Kafka, a real Postgres with its
//! replica, and a model that says what must come out.
//!
//! **Flow.** A [`Source`] plays the MetaSite table and its Debezium: it gives [`Record`]s, each with the state of the site
//! behind it. A [`System`] is one test's topic, group, database and processes. [`Model`] replays the records, [`View`]
//! reads primary and replica, [`differences`] compares the two to the row.
//!
//! **Guarantees.** Tests share servers and nothing else: names are random. Every wait has a bound and a name. A failure
//! names the folder with the logs of its processes; they die with the test, however it ends.
//!
//! **Absent.** No code of the writer or the reader: they are known by their contract alone, so that a mistake in them can't
//! be repeated here.

mod check;
mod collector;
mod feed;
mod imports;
mod kafka;
mod live;
mod model;
mod proxy;
mod record;
mod service;
mod source;
mod subscriber;
mod system;
mod torture;
mod view;

pub use check::{assert_equal, assert_equal_in, assert_equal_on, differences};
pub use collector::{Collector, spans};
pub use feed::{Chunk, Feed};
pub use imports::{
    Answer, Browser, Counts, Fault, Frame, ImportStage, ImportTorture, Member, Owner, Sheet, Socket, Upload, channel,
    connect, import_scenario, import_storm, import_torture,
};
pub use kafka::{Ends, OpenTransaction, RawRecord, Topic};
pub use live::{Live, rising, rising_site};
pub use model::{App, Model, Site};
pub use proxy::Proxy;
pub use record::{Record, partition_of};
pub use service::{Condition, Service};
pub use source::Source;
pub use subscriber::{By, Heard, Readers, Subscriber, Told};
pub use system::{Ended, Outcome, Position, Session, Started, System, scenario, scenario_on};
pub use torture::torture;
pub use view::View;
