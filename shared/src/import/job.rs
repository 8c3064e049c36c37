//! Jobs: an import in pieces that can be worked by different importers, each with its rows in it.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Most rows of a job: a transaction of Postgres that is short, and progress that moves.
pub const ROWS_PER_JOB: usize = 500;
/// Most rows of an import's first job: importers work several jobs side by side, and who waits sees progress as soon as one is done.
pub const ROWS_OF_FIRST_JOB: usize = 50;
/// Most bytes of a job's rows as JSON, so that a record stays below what brokers take (1 MB by default).
pub const JOB_BYTES_MAX: usize = 512 << 10;

/// Which import: a UUID. Who knows it may see its state and its errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImportId(Uuid);

impl ImportId {
    /// A new one, ordered by time.
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }

    /// The one that belongs to these bytes of a digest: the same upload sent twice has the same id.
    pub fn of_digest(digest: [u8; 16]) -> Self {
        Self(uuid::Builder::from_custom_bytes(digest).into_uuid())
    }

    /// Reads the text of an id; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        // Hyphens and nothing around: an id has one text, which is a key of records.
        (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten().map(Self)
    }

    /// The id as Postgres knows it.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl Default for ImportId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for ImportId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// What is to become of valid rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They become contacts.
    #[default]
    Import,
    /// They are counted as if; nothing is written but the errors.
    Check,
}

/// Which field of a row holds what, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Columns {
    /// The e-mail address, the contact's key.
    pub email: usize,
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<usize>,
    /// The phone number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<usize>,
}

/// One row of the file: `[line, [field, …]]`. The line is the one on which the row begins, from 1; the header's is 1 as well
/// when nothing stands before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row(pub u64, pub Vec<String>);

/// A job, with everything that an importer needs.
///
/// At least one row, at most [`ROWS_PER_JOB`] (the first: [`ROWS_OF_FIRST_JOB`]), and at most [`JOB_BYTES_MAX`] bytes of them. Rows come in the order of the file, and
/// have as many fields as the header, or fewer or more where the file has: that is for the importer to judge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its import.
    pub import_id: ImportId,
    /// Who is told.
    pub channel_id: String,
    /// Whose contacts.
    pub owner_id: String,
    /// Which job of the import, from 0.
    pub job: u32,
    /// Jobs of the import.
    pub jobs: u32,
    /// What is to become of valid rows.
    pub mode: Mode,
    /// Line of the first row.
    pub first_line: u64,
    /// How many fields the header has.
    pub fields: usize,
    /// Where in a row the contact is.
    pub columns: Columns,
    /// The rows.
    pub rows: Vec<Row>,
}

impl JobRecord {
    /// Key of the record: spreads the jobs of one import over the partitions.
    pub fn key(&self) -> String {
        format!("{}/{}", self.import_id, self.job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_text() {
        let id = ImportId::new();
        assert_eq!(ImportId::parse(&id.to_string()), Some(id));
        let text = id.to_string();
        for other in [text.replace('-', ""), format!("{{{text}}}"), format!("urn:uuid:{text}"), String::new()] {
            assert_eq!(ImportId::parse(&other), None, "{other}");
        }
        assert_eq!(ImportId::of_digest([9; 16]), ImportId::of_digest([9; 16]));
    }

    #[test]
    fn a_job_is_written_as_it_is_documented() {
        let job = JobRecord {
            import_id: ImportId::parse("01890000-0000-7000-8000-000000000000").unwrap(),
            channel_id: "c".to_owned(),
            owner_id: "o".to_owned(),
            job: 0,
            jobs: 2,
            mode: Mode::Check,
            first_line: 2,
            fields: 2,
            columns: Columns { email: 1, name: Some(0), phone: None },
            rows: vec![Row(2, vec!["Ada".to_owned(), "ada@example.org".to_owned()])],
        };
        let text = serde_json::to_string(&job).unwrap();
        assert_eq!(
            text,
            r#"{"import_id":"01890000-0000-7000-8000-000000000000","channel_id":"c","owner_id":"o","job":0,"jobs":2,"mode":"check","first_line":2,"fields":2,"columns":{"email":1,"name":0},"rows":[[2,["Ada","ada@example.org"]]]}"#
        );
        assert_eq!(serde_json::from_str::<JobRecord>(&text).unwrap(), job);
    }
}
