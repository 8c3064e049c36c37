//! The handlers, one file for each kind of thing that is looked up.

pub(crate) mod apps;
pub(crate) mod batch_get;
pub(crate) mod changes;
pub(crate) mod documents;
pub(crate) mod instances;
pub(crate) mod problems;
pub(crate) mod sites;
