//! Rows to contacts and faults. Pure.
//!
//! A row without a fault is a contact, in one form: the address in lower case, the name in NFC without needless space, the phone number
//! in E.164. A row with faults is none, and each of its faults is told.

mod email;
mod name;
mod phone;

use std::collections::BTreeMap;

use shared::import::{JobRecord, Row};

pub use phone::Country;

/// Characters of a row that are kept with its faults; the file has the rest.
const ROW_CHARS_MAX: usize = 2000;

/// A contact, and the line that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contact {
    pub(crate) line: u64,
    pub(crate) name: Option<String>,
    pub(crate) phone: Option<String>,
}

/// What is wrong with a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: u64,
    /// `email`, `name`, `phone`, or `row`.
    pub(crate) column: &'static str,
    /// For programs: a word in kebab-case.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: String,
    /// The row as a line of CSV.
    pub(crate) row: String,
}

/// A fault of one field, without its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wrong {
    code: &'static str,
    message: String,
}

impl Wrong {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// A job's rows, judged.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// By address, which is also the order in which their rows are locked. Of several lines the last one stands.
    pub(crate) contacts: BTreeMap<String, Contact>,
    /// Rows whose contact another row of the job stands for.
    pub(crate) duplicates: u64,
    /// In the order of lines.
    pub(crate) faults: Vec<Fault>,
    /// Rows with faults.
    pub(crate) failed: u64,
}

/// Judges every row of a job.
pub(crate) fn judge(job: &JobRecord, country: Option<Country>) -> Judged {
    let mut judged = Judged::default();
    for row in &job.rows {
        match contact(job, row, country) {
            Ok((email, contact)) => {
                // Rows come in the order of the file.
                judged.duplicates += u64::from(judged.contacts.insert(email, contact).is_some());
            }
            Err(faults) => {
                judged.failed += 1;
                judged.faults.extend(faults);
            }
        }
    }
    judged
}

fn contact(job: &JobRecord, row: &Row, country: Option<Country>) -> Result<(String, Contact), Vec<Fault>> {
    let Row(line, fields) = row;
    let fault = |column, Wrong { code, message }| Fault { line: *line, column, code, message, row: text(fields) };
    if fields.len() != job.fields {
        let message = format!("the row has {} fields, the header has {}", fields.len(), job.fields);
        return Err(vec![fault("row", Wrong::new("fields-differ", message))]);
    }
    let field = |column: usize| fields.get(column).map(String::as_str).unwrap_or_default();
    let email = email::read(field(job.columns.email));
    let name = job.columns.name.map_or(Ok(None), |column| name::read(field(column)));
    let phone = job.columns.phone.map_or(Ok(None), |column| phone::read(field(column), country));
    match (email, name, phone) {
        (Ok(email), Ok(name), Ok(phone)) => Ok((email, Contact { line: *line, name, phone })),
        (email, name, phone) => {
            let wrong = [("email", email.err()), ("name", name.err()), ("phone", phone.err())];
            Err(wrong.into_iter().filter_map(|(column, wrong)| Some(fault(column, wrong?))).collect())
        }
    }
}

/// The row as it may have stood in the file. NUL, which Postgres does not keep in text, is shown as a replacement.
fn text(fields: &[String]) -> String {
    let quoted = |field: &String| match field.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    let line = fields.iter().map(quoted).collect::<Vec<_>>().join(",");
    line.chars().take(ROW_CHARS_MAX).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use shared::import::{Columns, ImportId, Mode};

    use super::*;

    fn job(rows: &[&[&str]]) -> JobRecord {
        let row = |(number, fields): (usize, &&[&str])| {
            Row(number as u64 + 2, fields.iter().map(|field| (*field).to_owned()).collect())
        };
        JobRecord {
            import_id: ImportId::of_digest([1; 16]),
            channel_id: "c".to_owned(),
            owner_id: "o".to_owned(),
            job: 0,
            jobs: 1,
            mode: Mode::Import,
            first_line: 2,
            fields: 3,
            columns: Columns { email: 1, name: Some(0), phone: Some(2) },
            rows: rows.iter().enumerate().map(row).collect(),
        }
    }

    #[test]
    fn good_rows_are_contacts_in_one_form_and_the_last_of_several_stands() {
        let judged = judge(
            &job(&[
                &[" Ada  Lovelace ", "Ada@Example.org", "+44 20 7946 0958"],
                &["", "b@example.org", ""],
                &["Ada L.", "ADA@EXAMPLE.ORG ", ""],
            ]),
            None,
        );
        let contact = |line, name: Option<&str>| Contact { line, name: name.map(ToOwned::to_owned), phone: None };
        let expected = [("ada@example.org", contact(4, Some("Ada L."))), ("b@example.org", contact(3, None))];
        assert_eq!(judged.contacts, expected.map(|(email, contact)| (email.to_owned(), contact)).into());
        assert_eq!((judged.duplicates, judged.failed), (1, 0));
    }

    #[test]
    fn each_fault_of_a_bad_row_is_told_with_its_line() {
        let judged = judge(
            &job(&[
                &["x", "a@example.org"],
                &["a\0b", "", "123"],
                &["ok", "ok@example.org", ""],
                &["a,\"b\"", "@", "+44 20 7946 0958"],
            ]),
            None,
        );
        let told: Vec<_> = judged.faults.iter().map(|it| (it.line, it.column, it.code)).collect();
        assert_eq!(
            told,
            [
                (2, "row", "fields-differ"),
                (3, "email", "email-missing"),
                (3, "name", "name-invalid"),
                (3, "phone", "phone-invalid"),
                (5, "email", "email-invalid"),
            ]
        );
        assert_eq!((judged.failed, judged.contacts.len()), (3, 1));
        assert_eq!(judged.faults[1].row, "a\u{fffd}b,,123");
        assert_eq!(judged.faults[4].row, "\"a,\"\"b\"\"\",@,+44 20 7946 0958");
    }
}
