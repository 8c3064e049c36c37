//! What the routes do, by what they are about.

pub(crate) mod imports;
pub(crate) mod preview;
pub(crate) mod uploads;

use serde::Deserialize;

use crate::{check::Reading, error::Error, header::Asked, table::DELIMITERS, text::Written};

/// How a file is to be read: parameters that an upload and its preview share.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ReadingParameters {
    /// `auto`, `utf-8`, `utf-16le`, `utf-16be`, `windows-1252`.
    #[serde(default)]
    encoding: String,
    /// `auto`, or one of the characters.
    #[serde(default)]
    delimiter: String,
    /// Titles of columns; empty is none.
    email: Option<String>,
    name: Option<String>,
    phone: Option<String>,
}

impl ReadingParameters {
    fn reading(self) -> Result<Reading, Error> {
        let invalid = |why: &str| Error::InvalidParameter(why.to_owned());
        let written = Written::parse(&self.encoding);
        let delimiter = match self.delimiter.as_bytes() {
            [] | b"auto" => None,
            [one] if DELIMITERS.contains(one) => Some(*one),
            _ => return Err(invalid("delimiter is auto, or one of , ; | and the tab")),
        };
        let encodings = "encoding is auto, utf-8, utf-16le, utf-16be or windows-1252";
        let written = written.ok_or_else(|| invalid(encodings))?;
        let asked = Asked { email: self.email.filter(|title| !title.is_empty()), name: self.name, phone: self.phone };
        Ok(Reading { written, delimiter, asked })
    }
}
