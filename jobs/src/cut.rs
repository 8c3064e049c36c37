//! Rows to jobs. Both passes over a file cut it here, so that they cut it alike.

use serde::{Serialize, Serializer};
use shared::import::{Columns, ImportId, JOB_BYTES_MAX, JobRecord, Mode, ROWS_OF_FIRST_JOB, ROWS_PER_JOB};

use crate::table::RowView;

/// Rows of one job as JSON, without the brackets around them.
#[derive(Debug, Default)]
pub(crate) struct Piece {
    pub(crate) rows: usize,
    pub(crate) first_line: u64,
    json: Vec<u8>,
}

/// Cuts one file.
#[derive(Debug)]
pub(crate) struct Cutter {
    open: Piece,
    /// Most rows of the open piece.
    rows_max: usize,
    row: Vec<u8>,
}

impl Cutter {
    pub(crate) fn new() -> Self {
        Self { open: Piece::default(), rows_max: ROWS_OF_FIRST_JOB, row: Vec::new() }
    }

    /// Adds a row; gives the piece before it when that has no place for it.
    pub(crate) fn add(&mut self, row: RowView<'_>) -> Option<Piece> {
        self.row.clear();
        serde_json::to_writer(&mut self.row, &(row.line, Fields(row))).expect("texts are JSON");
        let is_full = self.open.rows == self.rows_max || self.open.json.len() + 1 + self.row.len() > JOB_BYTES_MAX;
        let full = (is_full && self.open.rows > 0).then(|| std::mem::take(&mut self.open));
        if full.is_some() {
            self.rows_max = ROWS_PER_JOB;
        }
        match self.open.rows {
            0 => self.open.first_line = row.line,
            _ => self.open.json.push(b','),
        }
        self.open.rows += 1;
        self.open.json.extend_from_slice(&self.row);
        full
    }

    /// The last piece, if there is one.
    pub(crate) fn end(self) -> Option<Piece> {
        (self.open.rows > 0).then_some(self.open)
    }
}

struct Fields<'a>(RowView<'a>);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.fields())
    }
}

/// What all jobs of an import have in common.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub(crate) id: ImportId,
    pub(crate) channel_id: String,
    pub(crate) owner_id: String,
    pub(crate) mode: Mode,
    pub(crate) jobs: u32,
    pub(crate) rows: u64,
    pub(crate) fields: usize,
    pub(crate) columns: Columns,
    /// The span of the upload, which its jobs continue; `None` where no traces are sent.
    pub(crate) traceparent: Option<String>,
}

impl Import {
    /// Key and value of the record of a job.
    pub(crate) fn record(&self, job: u32, piece: &Piece) -> (String, Vec<u8>) {
        let record = JobRecord {
            import_id: self.id,
            channel_id: self.channel_id.clone(),
            owner_id: self.owner_id.clone(),
            job,
            jobs: self.jobs,
            mode: self.mode,
            first_line: piece.first_line,
            fields: self.fields,
            columns: self.columns,
            rows: Vec::new(),
        };
        let mut value = serde_json::to_vec(&record).expect("texts and numbers are JSON");
        // The rows are the last member and are JSON already: they go between the brackets.
        value.truncate(value.len() - 2);
        value.extend_from_slice(&piece.json);
        value.extend_from_slice(b"]}");
        (record.key(), value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{COLUMNS_MAX, FIELD_BYTES_MAX, Table};

    fn cut(text: &str) -> Vec<JobRecord> {
        let (mut table, mut cutter, mut pieces) = (Table::new(Some(b',')), Cutter::new(), Vec::new());
        let mut add = |row: RowView<'_>| {
            pieces.extend(cutter.add(row));
            Ok(())
        };
        table.take(text, &mut add).unwrap();
        table.end(&mut add).unwrap();
        pieces.extend(cutter.end());
        let import = Import {
            id: ImportId::new(),
            channel_id: "c".to_owned(),
            owner_id: "o \"x\"".to_owned(),
            mode: Mode::Import,
            jobs: u32::try_from(pieces.len()).unwrap(),
            rows: pieces.iter().map(|piece| piece.rows as u64).sum(),
            fields: 2,
            columns: Columns { email: 0, name: None, phone: None },
            traceparent: None,
        };
        let record = |(job, piece): (u32, &Piece)| serde_json::from_slice(&import.record(job, piece).1).unwrap();
        (0..).zip(&pieces).map(record).collect()
    }

    #[test]
    fn jobs_hold_every_row_once_in_order_and_stay_below_their_limits() {
        let text: String = (0..1201).map(|n| format!("a{n}@example.org,\"N \"\"{n}\"\"\"\n")).collect();
        let jobs = cut(&text);
        assert_eq!(jobs.iter().map(|job| job.rows.len()).collect::<Vec<_>>(), [50, 500, 500, 151]);
        assert_eq!(jobs.iter().map(|job| job.first_line).collect::<Vec<_>>(), [1, 51, 551, 1051]);
        for (number, row) in jobs.iter().flat_map(|job| &job.rows).enumerate() {
            assert_eq!(row.0, number as u64 + 1);
            assert_eq!(row.1, [format!("a{number}@example.org"), format!("N \"{number}\"")]);
        }
        // What JSON makes longest: six bytes for one.
        let field = "\u{1}".repeat(FIELD_BYTES_MAX - 1);
        let jobs = cut(&format!("{field},{field},{field}\n").repeat(5));
        assert_eq!(jobs.iter().map(|job| job.rows.len()).collect::<Vec<_>>(), [1; 5]);
        let widest = format!("{}\n", ",".repeat(COLUMNS_MAX - 1)).repeat(600);
        assert_eq!(cut(&widest).iter().map(|job| job.rows.len()).sum::<usize>(), 600);
    }
}
