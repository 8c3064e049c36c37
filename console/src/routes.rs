//! What the routes do, by what they are about.

pub(crate) mod commands;
pub(crate) mod events;
pub(crate) mod reads;
pub(crate) mod redrives;
pub(crate) mod session;

use axum::{Json, extract::rejection::JsonRejection};

use crate::{
    access::{Caller, Role},
    error::Error,
};

/// The body, or what is wrong with it.
fn body<T>(body: Result<Json<T>, JsonRejection>) -> Result<T, Error> {
    body.map(|Json(body)| body).map_err(|rejection| Error::InvalidParameter(rejection.body_text()))
}

fn wants(caller: &Caller, role: Role) -> Result<(), Error> {
    if caller.role >= role { Ok(()) } else { Err(Error::Forbidden(role)) }
}

/// A change says why, and names what it hits.
fn confirmed(reason: &str, confirm: &str, expected: &str) -> Result<String, Error> {
    match (reason.trim(), confirm.trim() == expected) {
        ("", _) => Err(Error::NoReason),
        (_, false) => Err(Error::NotConfirmed(expected.to_owned())),
        (reason, true) => Ok(reason.to_owned()),
    }
}
