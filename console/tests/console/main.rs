//! The console as a process, on a real broker, with real consumers of `messaging`.

mod access;
mod browser;
mod commands;
mod lags;
mod redrives;
mod renewals;
mod stage;
mod transactions;
mod webdriver;
