//! Words and plumbing of every service.
//!
//! The words: identifiers ([`ids`]), the records of Debezium ([`envelope`]) and those of the import ([`import`]). The plumbing: one
//! static configuration ([`config`]), logs and metrics ([`telemetry`]), the admin port ([`admin`]) and the verb that asks it
//! ([`healthcheck`]), signals ([`shutdown`]), errors as HTTP answers ([`problem`]) and as exit codes ([`process`]).
//!
//! A service's life, in the order in which it uses the plumbing:
//!
//! ```text
//! process::run     the runtime around all that follows, and the exit code
//! config::load     flags > environment > TOML file > defaults; wrong ones end with exit code 2 and name the culprit
//! telemetry::init  logs, panics as logs, the metrics recorder
//! shutdown         the first signal cancels a token, the second ends the process
//! admin::serve     /livez, /readyz, /metrics from before the first dependency is there until after the last is gone
//! ```
//!
//! What this crate refuses to know: Kafka clients, SQL and tables. What a service alone knows stays in the service.

pub mod admin;
pub mod config;
pub mod envelope;
pub mod healthcheck;
pub mod ids;
pub mod import;
pub mod problem;
pub mod process;
pub mod shutdown;
pub mod telemetry;
