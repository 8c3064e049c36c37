//! The importer as a process, on a real broker and a real Postgres.

mod cancelled;
mod jobs;
mod killed;
mod log;
mod poison;
mod process;
mod stage;
