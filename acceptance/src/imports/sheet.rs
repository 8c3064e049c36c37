//! Files of contacts with everything in them that people write, and the model of what becomes of them.

mod bad;
mod person;
mod text;

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use rand::rngs::StdRng;

use person::{Contact, Person};
use text::Text;

/// Of a hundred rows.
const BAD: u32 = 2;
const TWICE: u32 = 2;
const KNOWN: u32 = 10;
const BLANK: u32 = 1;

/// What became of rows, or must.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// New contacts.
    pub imported: u64,
    /// Contacts that say something else now.
    pub updated: u64,
    /// Rows that say nothing new.
    pub skipped: u64,
    /// Rows of the error file.
    pub failed: u64,
}

impl Counts {
    /// All rows.
    pub fn rows(self) -> u64 {
        self.imported + self.updated + self.skipped + self.failed
    }

    /// Whether none of them is smaller than it was.
    pub fn are_behind(self, before: Self) -> bool {
        let pairs = [
            (self.imported, before.imported),
            (self.updated, before.updated),
            (self.skipped, before.skipped),
            (self.failed, before.failed),
        ];
        pairs.iter().all(|(now, before)| now >= before)
    }
}

/// What is wrong with a row, by its line in the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// From 1.
    pub line: u64,
    /// `email`, `name`, `phone` or `row`.
    pub column: String,
    /// The word of `docs/import.md`.
    pub code: String,
}

/// A file, and what must become of it.
#[derive(Debug)]
pub struct Sheet {
    /// As it is sent.
    pub text: String,
    /// Its rows without the header.
    pub rows: u64,
    /// What is told at its end.
    pub counts: Counts,
    /// The error file, in its order.
    pub faults: Vec<Fault>,
}

/// Somebody's contacts as they must be: which version of each person the last file has left.
#[derive(Debug, Clone)]
pub struct Owner {
    /// The owner's id.
    pub id: String,
    versions: BTreeMap<u64, u32>,
}

impl Owner {
    /// Without contacts.
    pub fn new(id: &str) -> Self {
        Self { id: id.to_owned(), versions: BTreeMap::new() }
    }

    /// How many contacts there must be.
    pub fn contacts(&self) -> usize {
        self.versions.len()
    }

    /// Holds a row of the table against the model.
    pub fn judge(&self, email: &str, name: Option<&str>, phone: Option<&str>) -> Result<()> {
        let number = Person::of_email(email).with_context(|| format!("{email} was never imported"))?;
        let version = self.versions.get(&number.0).with_context(|| format!("{email} was in no good row"))?;
        let Contact { email: right, name: its_name, phone: its_phone } = number.contact(*version);
        let is_so = right == email && its_name.as_deref() == name && its_phone.as_deref() == phone;
        ensure!(is_so, "{email}: {name:?}, {phone:?} instead of {right}: {its_name:?}, {its_phone:?}");
        Ok(())
    }
}

/// A person's lines in one file.
struct Mentioned {
    /// The version that was there before the file.
    before: Option<u32>,
    lines: u64,
}

impl Sheet {
    /// A file of so many rows, of which some speak of contacts that the owner has, some of one that they have spoken of, and some are
    /// bad. The model is the one after the import.
    ///
    /// A contact never becomes again what it was: what is counted of such a row depends on the order in which jobs are done.
    pub fn new(rng: &mut StdRng, owner: &mut Owner, rows: usize) -> Self {
        let known: Vec<u64> = owner.versions.keys().copied().collect();
        let (mut unmentioned, mut next) = (known.into_iter(), owner.versions.last_key_value().map_or(0, |it| it.0 + 1));
        let (mut text, mut faults, mut failed) = (Text::new(rng), Vec::new(), 0);
        let (mut mentioned, mut order) = (BTreeMap::<u64, Mentioned>::new(), Vec::new());
        for _ in 0..rows {
            if rng.random_range(0..100) < BLANK {
                text.blank();
            }
            let kind = rng.random_range(0..100);
            if kind < BAD {
                let bad = bad::draw(rng);
                let line = text.row(&bad.fields);
                faults.extend(bad.faults.iter().map(|(column, code)| fault(line, column, code)));
                failed += 1;
                continue;
            }
            let (number, changes) = match kind {
                _ if kind < BAD + TWICE && !order.is_empty() => {
                    (order[rng.random_range(0..order.len())], rng.random_range(0..2))
                }
                _ if kind < BAD + TWICE + KNOWN => match unmentioned.next() {
                    Some(number) => (number, rng.random_range(0..2)),
                    None => (fresh(&mut next), 0),
                },
                _ => (fresh(&mut next), 0),
            };
            let before = owner.versions.get(&number).copied();
            let version = before.map_or(0, |version| version + changes);
            owner.versions.insert(number, version);
            text.row(&Person(number).written(version, rng, text.end_of_line()));
            order.push(number);
            mentioned.entry(number).or_insert(Mentioned { before, lines: 0 }).lines += 1;
        }
        let counts = counts(owner, &mentioned, failed);
        Self { text: text.into(), rows: rows as u64, counts, faults }
    }
}

fn fresh(next: &mut u64) -> u64 {
    *next += 1;
    *next - 1
}

fn fault(line: u64, column: &str, code: &str) -> Fault {
    Fault { line, column: column.to_owned(), code: code.to_owned() }
}

fn counts(owner: &Owner, mentioned: &BTreeMap<u64, Mentioned>, failed: u64) -> Counts {
    let mut counts = Counts { failed, ..Counts::default() };
    for (number, Mentioned { before, lines }) in mentioned {
        let (imported, updated) = match before {
            None => (1, 0),
            Some(before) => (0, u64::from(owner.versions[number] != *before)),
        };
        counts.imported += imported;
        counts.updated += updated;
        counts.skipped += lines - imported - updated;
    }
    counts
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_seed_gives_one_file_and_every_row_is_in_one_count() {
        let mut owner = Owner::new("ada");
        let mut rng = StdRng::seed_from_u64(7);
        let first = Sheet::new(&mut rng, &mut owner, 3000);
        let contacts = owner.contacts() as u64;
        let second = Sheet::new(&mut rng, &mut owner, 3000);
        assert_eq!((first.counts.rows(), second.counts.rows()), (3000, 3000));
        assert_eq!((first.counts.imported, first.counts.updated), (contacts, 0));
        assert!(second.counts.updated > 50 && second.counts.skipped > 50 && second.counts.failed > 20);
        assert!(first.faults.is_sorted() && second.faults.is_sorted());
        let again = Sheet::new(&mut StdRng::seed_from_u64(7), &mut Owner::new("ada"), 3000);
        assert_eq!((again.text, again.faults), (first.text, first.faults));
    }

    #[test]
    fn the_model_knows_a_contact_from_another() {
        let mut owner = Owner::new("ada");
        Sheet::new(&mut StdRng::seed_from_u64(1), &mut owner, 10);
        let (number, version) = owner.versions.first_key_value().map(|(number, version)| (*number, *version)).unwrap();
        let Contact { email, name, phone } = Person(number).contact(version);
        owner.judge(&email, name.as_deref(), phone.as_deref()).unwrap();
        assert!(owner.judge(&email, Some("Somebody else"), phone.as_deref()).is_err());
        assert!(owner.judge(&email, name.as_deref(), Some("+49301")).is_err());
        assert!(owner.judge(&Person(999_999).contact(0).email, None, None).is_err());
    }
}
