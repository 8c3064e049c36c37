//! What stands before the payload of an enveloped record with its schema, when it stands there again.

/// The text up to the payload of the last record that came as `{"schema":…,"payload":…}`, for the records behind it.
///
/// Connect writes the schema into every record of a topic, longer than the row itself and the same each time. Where a record begins
/// with a text that has been read as JSON once, only its payload has to be read.
#[derive(Debug, Default)]
pub struct SchemaHead(String);

impl SchemaHead {
    /// The payload of a text that begins with the head that is known, unless something stands behind it; the caller finds out,
    /// since the payload is then no JSON.
    pub(super) fn payload_of<'a>(&self, text: &'a str) -> Option<&'a str> {
        let behind = text.strip_prefix(self.0.as_str()).filter(|_| !self.0.is_empty())?;
        behind.strip_suffix('}')
    }

    /// Remembers the head of a text that has been read, if the payload, a part of it, is the last that it holds.
    pub(super) fn learn(&mut self, text: &str, payload: &str) {
        let start = payload.as_ptr() as usize - text.as_ptr() as usize;
        if &text[start + payload.len()..] == "}" && self.0 != text[..start] {
            self.0.clear();
            self.0.push_str(&text[..start]);
        }
    }
}
