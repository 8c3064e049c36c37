//! Starts the real parts of the system as child processes, for tests and for the demo: Kafka, the source's Postgres with
//! Debezium, the view's Postgres with a streaming replica, writer, reader, relay and console; Prometheus beside them on demand.
//!
//! **Flow.** [`Options`] say what and where; `artefacts` resolves the jars once; `place` takes the state folder; `kafka`,
//! `postgres`, `connect`, `services` and `prometheus` each know how one part is made, started and found healthy; `stack` puts them
//! together; `up`, `smoke`, `demo` and `doctor` are the commands. `jdbc_sink` and `start_beside` run further programs beside
//! a devstack, for benchmarks.
//!
//! **Guarantees.** Nothing is left running, whatever ends devstack: children are stopped in order on a signal and on drop,
//! and the kernel kills them when devstack is killed (Linux only, as is this crate). Every wait has a bound. Every failure
//! names its part, its log and the way out. Ports are free ones, so devstacks run beside each other. A second start needs
//! no network.
//!
//! **Absent.** It depends on no other crate of the workspace: the services are binaries with a contract, and are found
//! beside devstack's own.

mod account;
mod artefacts;
mod beside;
mod catalog;
mod changes;
mod companion;
pub mod connect;
pub mod demo;
pub mod doctor;
pub mod endpoints;
mod failure;
mod imports;
pub mod jdbc_sink;
mod kafka;
mod lock;
mod options;
mod place;
mod ports;
pub mod postgres;
mod process;
mod progress;
mod prometheus;
mod server;
mod services;
pub mod smoke;
mod stack;
pub mod up;
mod wait;

pub use beside::start_beside;
pub use companion::shared;
pub use endpoints::Endpoints;
pub use failure::Failure;
pub use kafka::topic_is_known;
pub use options::{Detour, Options, Part, PortName, bin_dir, default_cache_dir, parse_port, target_dir};
pub use place::unused_state_dir;
pub use ports::free_port;
pub use progress::{Progress, Step, warn};
pub use server::Server;
pub use stack::Devstack;
pub use wait::eventually;
