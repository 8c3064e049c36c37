//! The console as a process, on a real broker, with real consumers of `messaging`.

mod access;
mod browser;
mod causes;
mod commands;
mod lags;
mod parked;
mod redrives;
mod renewals;
mod retries;
mod stage;
mod transactions;
mod webdriver;
