//! A CSV file that grows, and knows its lines.

use rand::RngExt;
use rand::rngs::StdRng;

/// How a file is written: by the seed.
pub(super) struct Text {
    text: String,
    delimiter: char,
    end_of_line: &'static str,
    /// Of the next row.
    line: u64,
}

impl Text {
    /// With a header.
    pub(super) fn new(rng: &mut StdRng) -> Self {
        let delimiter = [',', ';', '\t'][rng.random_range(0..3)];
        let end_of_line = ["\n", "\r\n"][rng.random_range(0..2)];
        let mut text = Self { text: String::new(), delimiter, end_of_line, line: 1 };
        text.row(&["Full name", "E-Mail", "Phone"].map(str::to_owned));
        text
    }

    /// What ends its lines.
    pub(super) fn end_of_line(&self) -> &'static str {
        self.end_of_line
    }

    /// A line without anything, which is no row.
    pub(super) fn blank(&mut self) {
        self.text.push_str(self.end_of_line);
        self.line += 1;
    }

    /// Adds a row; gives the line on which it begins. A field may have lines of its own.
    pub(super) fn row(&mut self, fields: &[String]) -> u64 {
        let begin = self.line;
        for (at, field) in fields.iter().enumerate() {
            if at > 0 {
                self.text.push(self.delimiter);
            }
            if field.contains([self.delimiter, '"', '\r', '\n']) {
                self.text += &format!("\"{}\"", field.replace('"', "\"\""));
            } else {
                self.text.push_str(field);
            }
            self.line += field.matches('\n').count() as u64;
        }
        self.blank();
        begin
    }
}

impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.text
    }
}
