//! Whole-system tests that kill, restart and promote servers: each on a devstack of its own, since nobody else could use one
//! beside or after them.

mod failover;
mod feed;
mod heartbeats;
mod replicas;
mod restarts;
mod source_verify;
