//! The notifier as a process, on a real broker, with real sockets.

mod end_to_end;
mod events;
mod gaps;
mod recovery;
mod refusals;
mod slow;
mod stage;
