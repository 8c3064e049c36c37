//! The first pass, while the file streams in: it is decoded, written to the spool, taken apart and counted, all in one thread.

use shared::import::Columns;
use tokio::sync::mpsc::Receiver;

use crate::{
    cut::Cutter,
    error::Error,
    header::{self, Asked},
    intake::Chunk,
    refusal::Refusal,
    spool::SpoolFile,
    table::{RowView, Table},
    text::{Text, Written},
};

/// How a client wants its file read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub(crate) written: Written,
    /// `None`: as the first line tells.
    pub(crate) delimiter: Option<u8>,
    pub(crate) asked: Asked,
}

/// What the second pass needs to know, and finds again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) delimiter: u8,
    pub(crate) fields: usize,
    pub(crate) columns: Columns,
    pub(crate) rows: u64,
    pub(crate) jobs: u32,
}

/// Reads everything that comes. Blocks while nothing does.
///
/// Errors: what is wrong with the file; the spool; a body that broke off, of which who poured it knows more.
pub(crate) fn check(
    mut chunks: Receiver<Chunk>,
    file: &mut SpoolFile,
    reading: &Reading,
    rows_max: u64,
) -> Result<Plan, Error> {
    let (mut text, mut table) = (Text::new(reading.written), Table::new(reading.delimiter));
    let mut counts = Counts { asked: &reading.asked, rows_max, header: None, rows: 0, jobs: 0, cutter: Cutter::new() };
    loop {
        let (bytes, last) = match chunks.blocking_recv() {
            Some(Chunk::Bytes(bytes)) => (bytes, false),
            Some(Chunk::End) => (Default::default(), true),
            None => return Err(Error::BrokenBody("the upload broke off".to_owned())),
        };
        let decoded = text.decode(&bytes, last)?;
        file.write(decoded)?;
        table.take(decoded, |row| counts.add(row))?;
        if last {
            break;
        }
    }
    table.end(|row| counts.add(row))?;
    file.finish()?;
    Ok(counts.plan(table.delimiter())?)
}

struct Counts<'a> {
    asked: &'a Asked,
    rows_max: u64,
    header: Option<(usize, Columns)>,
    rows: u64,
    jobs: u32,
    cutter: Cutter,
}

impl Counts<'_> {
    fn add(&mut self, row: RowView<'_>) -> Result<(), Refusal> {
        if self.header.is_none() {
            let titles: Vec<String> = row.fields().map(str::to_owned).collect();
            self.header = Some((titles.len(), header::columns(&titles, row.line, self.asked)?));
            return Ok(());
        }
        self.rows += 1;
        if self.rows > self.rows_max {
            let why = format!("the file has more than {} rows; send it in parts", self.rows_max);
            return Err(Refusal::at(row.line, "too-many-rows", why));
        }
        self.jobs += u32::from(self.cutter.add(row).is_some());
        Ok(())
    }

    fn plan(self, delimiter: u8) -> Result<Plan, Refusal> {
        let Some((fields, columns)) = self.header else {
            return Err(Refusal::of_file("empty-file", "the file is empty; its first row must be the header"));
        };
        if self.rows == 0 {
            return Err(Refusal::of_file("no-rows", "the file has a header and no rows"));
        }
        let jobs = self.jobs + u32::from(self.cutter.end().is_some());
        Ok(Plan { delimiter, fields, columns, rows: self.rows, jobs })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use shared::import::ImportId;

    use super::*;
    use crate::{intake, spool::Spool};

    fn checked(text: &[u8], ends: bool) -> Result<Plan, Error> {
        let folder = tempfile::tempdir().unwrap();
        let spool = Arc::new(Spool::open(folder.path(), 1 << 20).unwrap());
        let mut file = spool.place(ImportId::new()).unwrap();
        let (to, from) = intake::pipe();
        to.try_send(Chunk::Bytes(Bytes::copy_from_slice(text))).unwrap_or_default();
        if ends {
            to.try_send(Chunk::End).unwrap_or_default();
        }
        drop(to);
        check(from, &mut file, &Reading::default(), 1000)
    }

    #[test]
    fn a_file_becomes_a_plan_or_words_about_its_line() {
        let text: String = (0..501).map(|n| format!("N;n{n}@example.org\n")).collect();
        let plan = checked(format!("name;e-mail\n{text}").as_bytes(), true).unwrap();
        let columns = Columns { email: 1, name: Some(0), phone: None };
        assert_eq!(plan, Plan { delimiter: b';', fields: 2, columns, rows: 501, jobs: 2 });
        for (text, says) in [
            (&b""[..], "the file is empty"),
            (b"email\n", "no rows"),
            (b"a,b\n1,2\n", "line 1: no column is for e-mail"),
            (b"email\na\nb\xff", "line 3: is not valid UTF-8"),
            (b"email\n\"a", "line 2: a quote"),
            (&[&b"email\n"[..], &b"a\n".repeat(1001)].concat(), "line 1002: the file has more than 1000 rows"),
        ] {
            let refused = checked(text, true).unwrap_err().to_string();
            assert!(refused.contains(says), "{refused}");
        }
    }

    #[test]
    fn what_breaks_off_is_no_file() {
        assert!(matches!(checked(b"email\na@example.org\n", false), Err(Error::BrokenBody(_))));
    }
}
