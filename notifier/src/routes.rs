//! What the routes do, by what they are about.

pub(crate) mod channels;
mod events;
mod socket;
