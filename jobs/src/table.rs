//! UTF-8 to rows, a chunk at a time, within limits: a row that grows beyond them is refused while it grows, so memory is flat
//! whatever the file is. Rows end with LF, CR or both; fields may stand in quotes and then hold all of these.

use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use crate::{lines::Lines, refusal::Refusal};

/// Bytes of a row, all fields together. As JSON at most six times as many, which is less than a job may have.
pub(crate) const ROW_BYTES_MAX: usize = 64 << 10;
/// Bytes of one field.
pub(crate) const FIELD_BYTES_MAX: usize = 16 << 10;
/// Columns, or fields of a row.
pub(crate) const COLUMNS_MAX: usize = 256;
/// What may stand between fields; of equals the first wins.
pub(crate) const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// One row, for as long as it is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowView<'a> {
    /// On which it begins, from 1.
    pub(crate) line: u64,
    bytes: &'a [u8],
    ends: &'a [usize],
}

impl<'a> RowView<'a> {
    pub(crate) fn fields(self) -> impl Iterator<Item = &'a str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends).map(move |(start, end)| {
            // Cut out of UTF-8 at ASCII characters.
            str::from_utf8(&self.bytes[start..*end]).expect("fields of UTF-8 are UTF-8")
        })
    }

    pub(crate) fn len(self) -> usize {
        self.ends.len()
    }
}

/// Takes a file apart.
pub(crate) struct Table {
    /// Until the delimiter is known, which the first line tells.
    head: Vec<u8>,
    parser: Option<Reader>,
    delimiter: u8,
    /// Of the row that is being read.
    bytes: Box<[u8]>,
    ends: Box<[usize]>,
    bytes_len: usize,
    ends_len: usize,
    /// Whether one has begun; a quote alone has written nothing yet.
    is_open: bool,
    begins_at: u64,
    lines: Lines,
}

impl Table {
    /// With this delimiter, or the one that the first line tells.
    pub(crate) fn new(delimiter: Option<u8>) -> Self {
        Self {
            head: Vec::new(),
            parser: delimiter.map(parser),
            delimiter: delimiter.unwrap_or(DELIMITERS[0]),
            bytes: vec![0; ROW_BYTES_MAX].into(),
            ends: vec![0; COLUMNS_MAX + 1].into(),
            bytes_len: 0,
            ends_len: 0,
            is_open: false,
            begins_at: 1,
            lines: Lines::default(),
        }
    }

    /// What stands between fields; known from the first row on.
    pub(crate) fn delimiter(&self) -> u8 {
        self.delimiter
    }

    /// Takes a chunk; hands over the rows that end in it.
    pub(crate) fn take(
        &mut self,
        chunk: &str,
        mut on_row: impl FnMut(RowView<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        if self.parser.is_some() {
            return self.parse(chunk.as_bytes(), &mut on_row);
        }
        self.head.extend_from_slice(chunk.as_bytes());
        match self.head.len() > ROW_BYTES_MAX || first_line(&self.head).is_some() {
            true => self.parse_head(&mut on_row),
            false => Ok(()),
        }
    }

    /// The file has ended; hands over its last row.
    pub(crate) fn end(&mut self, mut on_row: impl FnMut(RowView<'_>) -> Result<(), Refusal>) -> Result<(), Refusal> {
        if self.parser.is_none() {
            self.parse_head(&mut on_row)?;
        }
        // A line's end ends every row but one whose quote is open: there it is a character like others.
        self.parse(b"\n", &mut on_row)?;
        match self.is_open {
            true => {
                Err(Refusal::at(self.begins_at, "unclosed-quote", "a quote that begins in this row is never closed"))
            }
            false => Ok(()),
        }
    }

    fn parse_head(&mut self, on_row: &mut impl FnMut(RowView<'_>) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let head = std::mem::take(&mut self.head);
        self.delimiter = delimiter(first_line(&head).unwrap_or(&head));
        self.parser = Some(parser(self.delimiter));
        self.parse(&head, on_row)
    }

    fn parse(
        &mut self,
        mut input: &[u8],
        on_row: &mut impl FnMut(RowView<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let parser = self.parser.as_mut().expect("the delimiter is known");
        loop {
            if !self.is_open {
                let empty = input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.lines.pass(&input[..empty]);
                input = &input[empty..];
                self.begins_at = self.lines.ended + 1;
            }
            // An empty slice would say that the file has ended.
            if input.is_empty() {
                return Ok(());
            }
            let (output, ends) = (&mut self.bytes[self.bytes_len..], &mut self.ends[self.ends_len..]);
            let (result, taken, written, ended) = parser.read_record(input, output, ends);
            self.lines.pass(&input[..taken]);
            input = &input[taken..];
            self.is_open = true;
            self.bytes_len += written;
            self.ends_len += ended;
            match result {
                ReadRecordResult::InputEmpty | ReadRecordResult::End => return Ok(()),
                ReadRecordResult::OutputFull => return Err(too_long(self.begins_at, "this row", ROW_BYTES_MAX)),
                ReadRecordResult::OutputEndsFull => return Err(too_wide(self.begins_at)),
                ReadRecordResult::Record => {
                    let (bytes, ends) = (&self.bytes[..self.bytes_len], &self.ends[..self.ends_len]);
                    let row = RowView { line: self.begins_at, bytes, ends };
                    (self.bytes_len, self.ends_len, self.is_open) = (0, 0, false);
                    check(row)?;
                    on_row(row)?;
                }
            }
        }
    }
}

fn parser(delimiter: u8) -> Reader {
    ReaderBuilder::new().delimiter(delimiter).build()
}

fn check(row: RowView<'_>) -> Result<(), Refusal> {
    if row.len() > COLUMNS_MAX {
        return Err(too_wide(row.line));
    }
    match row.fields().all(|field| field.len() <= FIELD_BYTES_MAX) {
        true => Ok(()),
        false => Err(too_long(row.line, "a field of this row", FIELD_BYTES_MAX)),
    }
}

fn too_long(line: u64, what: &str, max: usize) -> Refusal {
    let why = format!("{what} is longer than {} KiB; is a quote not closed, or is this no CSV?", max >> 10);
    Refusal::at(line, "row-too-long", why)
}

fn too_wide(line: u64) -> Refusal {
    Refusal::at(line, "too-many-columns", format!("this row has more than {COLUMNS_MAX} fields"))
}

/// The text before the first end of a line that stands in no quotes.
fn first_line(text: &[u8]) -> Option<&[u8]> {
    let begin = text.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let mut quoted = false;
    let end = text[begin..].iter().position(|byte| {
        quoted ^= *byte == b'"';
        !quoted && matches!(byte, b'\r' | b'\n')
    });
    end.map(|end| &text[begin..begin + end])
}

/// Of the candidates the one that stands most often in the line, outside of quotes.
fn delimiter(line: &[u8]) -> u8 {
    let mut counts = [0; DELIMITERS.len()];
    let mut quoted = false;
    for byte in line {
        quoted ^= *byte == b'"';
        let at = DELIMITERS.iter().position(|delimiter| delimiter == byte).filter(|_| !quoted);
        at.into_iter().for_each(|at| counts[at] += 1);
    }
    let best = (0..counts.len()).rev().max_by_key(|at| counts[*at]).unwrap_or_default();
    DELIMITERS[best]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Rows = Vec<(u64, Vec<String>)>;

    /// All rows, the text given in chunks of about this size.
    fn rows(text: &str, chunk: usize) -> Result<Rows, Refusal> {
        let (mut table, mut rows, mut rest) = (Table::new(None), Vec::new(), text);
        let mut keep = |row: RowView<'_>| {
            rows.push((row.line, row.fields().map(str::to_owned).collect()));
            Ok(())
        };
        while !rest.is_empty() {
            let cut = (chunk.min(rest.len())..=rest.len()).find(|at| rest.is_char_boundary(*at)).unwrap();
            table.take(&rest[..cut], &mut keep)?;
            rest = &rest[cut..];
        }
        table.end(&mut keep)?;
        Ok(rows)
    }

    #[test]
    fn rows_have_the_line_on_which_they_begin() {
        let text = "\r\na;b\r\n\n\n\"1\n\n1\";x\r\n2;y\n\n3;\"\"\"z\"\"\"";
        let expected = [(2, ["a", "b"]), (5, ["1\n\n1", "x"]), (8, ["2", "y"]), (10, ["3", "\"z\""])];
        let expected: Rows = expected.iter().map(|(line, row)| (*line, row.map(str::to_owned).to_vec())).collect();
        for chunk in 1..text.len() {
            assert_eq!(rows(text, chunk).as_ref(), Ok(&expected), "{chunk}");
        }
    }

    #[test]
    fn lines_end_as_any_system_ends_them() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["a;b", "1;x", "", "\"", "2\";y", "3;\"z", "\""].join(end);
            let two = format!("{end}2");
            let expected: Rows = [(1, "a", "b"), (2, "1", "x"), (4, two.as_str(), "y"), (6, "3", &format!("z{end}"))]
                .map(|(line, first, second)| (line, vec![first.to_owned(), second.to_owned()]))
                .to_vec();
            for chunk in 1..text.len() {
                assert_eq!(rows(&text, chunk).as_ref(), Ok(&expected), "{end:?} {chunk}");
            }
        }
    }

    #[test]
    fn the_delimiter_is_what_the_first_line_has_most_of() {
        for (line, expected) in
            [("a,b;c,d", b','), ("a;\"b,c,d\";e", b';'), ("a\tb", b'\t'), ("a|b", b'|'), ("a", b',')]
        {
            assert_eq!(delimiter(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn what_grows_beyond_its_limit_is_refused_with_its_line() {
        let long = "x".repeat(FIELD_BYTES_MAX + 1);
        for (text, code, line) in [
            (format!("a,b\n1,{long}"), "row-too-long", 2),
            (format!("a,b\n1,\"{}", "x\n".repeat(ROW_BYTES_MAX)), "row-too-long", 2),
            ("x".repeat(10 * ROW_BYTES_MAX), "row-too-long", 1),
            (",".repeat(1_000_000), "too-many-columns", 1),
            (format!("a,b\n{}\n", ",".repeat(COLUMNS_MAX)), "too-many-columns", 2),
            ("a,b\n1,2\n3,\"4\n5".to_owned(), "unclosed-quote", 3),
            ("a,b\n1,\"".to_owned(), "unclosed-quote", 2),
            ("\"a".to_owned(), "unclosed-quote", 1),
            ("a\n\"".to_owned(), "unclosed-quote", 2),
        ] {
            for chunk in [7, 4096, 1 << 20] {
                let refused = rows(&text, chunk).unwrap_err();
                assert_eq!((refused.code, refused.line), (code, Some(line)));
            }
        }
        assert!(rows(&format!("a,b\n1,{}", &long[1..]), 4096).is_ok());
        assert!(rows(&",".repeat(COLUMNS_MAX - 1), 4096).is_ok());
    }

    #[test]
    fn an_empty_file_has_no_rows() {
        for text in ["", "\n\n", "\r\n"] {
            assert_eq!(rows(text, 1), Ok(Vec::new()), "{text:?}");
        }
    }

    proptest! {
        /// What is written by the rules is read as it was, however it is cut.
        #[test]
        fn what_was_written_is_read(
            written in prop::collection::vec(prop::collection::vec("[a-zé\",;\n\r]{0,6}", 2..4), 1..12),
            chunk in 1..40usize,
        ) {
            let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
            let line = |row: &Vec<String>| row.iter().map(quoted).collect::<Vec<_>>().join(",") + "\r\n";
            let text: String = written.iter().map(line).collect();
            let read: Vec<_> = rows(&text, chunk).unwrap().into_iter().map(|(_, row)| row).collect();
            prop_assert_eq!(read, written);
        }
    }
}
