//! A source table of a handful of sites: statements in transactions, and what the source's log tells of them.

use std::collections::BTreeMap;

use proptest::{collection::vec, option, prelude::*};

/// Sites that a history is about.
pub const SITES: usize = 5;

/// One element of a site's array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    pub app: u8,
    pub instance: Option<u8>,
    pub version: u8,
    pub installed: bool,
}

/// A site's array; a large one is not sent again by an update that leaves it as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Apps {
    pub list: Vec<App>,
    pub large: bool,
}

/// What the records of a history have to tell of their place in the source's log, and so how much may come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Positions {
    /// All changes have one: the view never goes back.
    All,
    /// Some deletes have none, or are tombstones only: a repeat may take the view back until it is complete.
    NotOfAllDeletes,
    /// No change has one: as above.
    None,
}

/// How a delete stands in the topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    DeleteAndTombstone,
    DeleteOnly,
    TombstoneOnly,
    WithoutPosition,
}

/// One statement; on a site that is not there (or, for a new key, is) it does nothing.
#[derive(Debug, Clone)]
pub enum Statement {
    Put { site: usize, apps: Apps },
    Touch { site: usize },
    Delete { site: usize, told: Told },
    ChangeKey { from: usize, to: usize },
}

/// What the source's log tells of one row, in the order of the log.
#[derive(Debug, Clone)]
pub struct Change {
    pub site: usize,
    pub position: Option<u64>,
    pub what: What,
    /// Whether the source may begin again here: not between a delete and its tombstone, nor within a key change.
    pub starts: bool,
}

/// What happened to the row.
#[derive(Debug, Clone)]
pub enum What {
    Write { op: char, apps: Option<Apps>, version: Option<i64>, old_key: Option<usize> },
    Delete { new_key: Option<usize> },
    Tombstone { new_key: Option<usize> },
}

/// A row, and the document that the view shall have of it.
#[derive(Debug, Clone)]
pub struct Row {
    pub apps: Apps,
    pub version: Option<i64>,
    pub document: Document,
}

/// The apps of a site by app and instance, as JSON text, and the version at which they last changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    pub version: Option<i64>,
    pub apps: BTreeMap<(String, Option<String>), String>,
}

/// The rows at one moment.
pub type Rows = BTreeMap<usize, Row>;

/// The table, and what the log needs to know beside it.
#[derive(Debug, Default)]
pub struct Table {
    pub rows: Rows,
    /// Keys whose apps a new key took over untold, and the key that has them now. They come back from there only: the create
    /// of the new key waits for their delete, and a row that is there again would end the wait in vain.
    lent: BTreeMap<usize, usize>,
    versions: i64,
}

/// The source position of the first change of a transaction; its changes share it, but for key changes.
pub fn first_lsn(transaction: usize) -> u64 {
    1000 * (transaction as u64 + 1)
}

/// A position after all changes of a transaction and before those of the next.
pub fn snapshot_lsn(transaction: usize) -> u64 {
    first_lsn(transaction) + 500
}

impl Table {
    /// Runs a transaction and gives what the log tells of it.
    pub fn run(&mut self, statements: &[Statement], transaction: usize, positions: Positions) -> Vec<Change> {
        let (mut log, mut lsn) = (Vec::new(), first_lsn(transaction));
        for statement in statements {
            let first = log.len();
            match statement {
                Statement::Put { site, apps } => log.extend(self.put(*site, apps)),
                Statement::Touch { site } => log.extend(self.touch(*site)),
                Statement::Delete { site, told } => log.extend(self.delete(*site, *told, positions)),
                Statement::ChangeKey { from, to } => {
                    // Its delete and create share a position that nothing else has.
                    lsn += 1;
                    log.extend(self.change_key(*from, *to, positions));
                }
            }
            for (n, change) in log[first..].iter_mut().enumerate() {
                change.starts = n == 0;
                change.position = change.position.map(|_| lsn).filter(|_| positions != Positions::None);
            }
            lsn += u64::from(matches!(statement, Statement::ChangeKey { .. }));
        }
        log
    }

    fn next_version(&mut self) -> Option<i64> {
        self.versions += 1;
        // A version may be null, and may fall.
        (self.versions % 11 != 0).then_some(if self.versions % 7 == 0 { -self.versions } else { self.versions })
    }

    fn put(&mut self, site: usize, apps: &Apps) -> Option<Change> {
        if self.lent.contains_key(&site) {
            return None;
        }
        let version = self.next_version();
        let before = self.rows.get(&site);
        let told = before.is_none_or(|row| !(row.apps.large && row.apps == *apps));
        let op = if before.is_some() { 'u' } else { 'c' };
        let document = match before {
            Some(row) if row.document.apps == canonical(apps) => row.document.clone(),
            _ => Document { version, apps: canonical(apps) },
        };
        self.rows.insert(site, Row { apps: apps.clone(), version, document });
        Some(change(site, What::Write { op, apps: told.then(|| apps.clone()), version, old_key: None }))
    }

    fn touch(&mut self, site: usize) -> Option<Change> {
        let apps = self.rows.get(&site)?.apps.clone();
        self.put(site, &apps)
    }

    fn delete(&mut self, site: usize, told: Told, positions: Positions) -> Vec<Change> {
        if self.rows.remove(&site).is_none() {
            return Vec::new();
        }
        let told = match told {
            Told::TombstoneOnly | Told::WithoutPosition if positions == Positions::All => Told::DeleteAndTombstone,
            told => told,
        };
        let mut delete = change(site, What::Delete { new_key: None });
        if told == Told::WithoutPosition {
            delete.position = None;
        }
        let tombstone = change(site, What::Tombstone { new_key: None });
        match told {
            Told::DeleteOnly => vec![delete],
            Told::TombstoneOnly => vec![tombstone],
            Told::DeleteAndTombstone | Told::WithoutPosition => vec![delete, tombstone],
        }
    }

    fn change_key(&mut self, from: usize, to: usize, positions: Positions) -> Vec<Change> {
        let Some(row) = self.rows.get(&from).cloned() else { return Vec::new() };
        let untold = row.apps.large && positions != Positions::None;
        let comes_back = self.lent.get(&to).is_none_or(|holder| untold && *holder == from);
        if self.rows.contains_key(&to) || !comes_back {
            return Vec::new();
        }
        self.rows.remove(&from);
        let version = self.next_version();
        self.lent.remove(&to);
        if untold {
            self.lent.values_mut().filter(|holder| **holder == from).for_each(|holder| *holder = to);
            self.lent.insert(from, to);
        }
        let document = Document { version, apps: canonical(&row.apps) };
        let told = (!untold).then(|| row.apps.clone());
        self.rows.insert(to, Row { apps: row.apps, version, document });
        vec![
            change(from, What::Delete { new_key: Some(to) }),
            change(from, What::Tombstone { new_key: Some(to) }),
            change(to, What::Write { op: 'c', apps: told, version, old_key: Some(from) }),
        ]
    }
}

/// A change with a position that [`Table::run`] fills in.
fn change(site: usize, what: What) -> Change {
    Change { site, position: Some(0), what, starts: false }
}

/// The apps that a document shows: installed ones, the last of equal ones.
fn canonical(apps: &Apps) -> BTreeMap<(String, Option<String>), String> {
    let mut shown = BTreeMap::new();
    for App { app, instance, version, installed } in &apps.list {
        let (app, instance) = (format!("a{app}"), instance.map(|instance| format!("i{instance}")));
        let member = instance.as_ref().map_or(String::new(), |instance| format!(r#""instance_id":"{instance}","#));
        let json = format!(r#"{{"app_id":"{app}",{member}"version":"{version}","status":"INSTALLED"}}"#);
        match installed {
            true => shown.insert((app, instance), json),
            false => shown.remove(&(app, instance)),
        };
    }
    shown
}

impl Document {
    /// The finished text.
    pub fn json(&self, site: usize) -> String {
        let version = self.version.map_or(String::new(), |version| format!(r#""version":{version},"#));
        let apps = self.apps.values().map(String::as_str).collect::<Vec<_>>().join(",");
        format!(r#"{{"site_id":"s{site}",{version}"apps":[{apps}]}}"#)
    }
}

fn app() -> impl Strategy<Value = App> {
    (0..3u8, option::of(0..2u8), 0..2u8, prop::bool::weighted(0.8))
        .prop_map(|(app, instance, version, installed)| App { app, instance, version, installed })
}

/// Any array of apps.
pub fn apps() -> impl Strategy<Value = Apps> {
    (vec(app(), 0..4), prop::bool::weighted(0.4)).prop_map(|(list, large)| Apps { list, large })
}

/// Any statement.
pub fn statement() -> impl Strategy<Value = Statement> {
    let told = prop_oneof![
        2 => Just(Told::DeleteAndTombstone),
        1 => Just(Told::DeleteOnly),
        1 => Just(Told::TombstoneOnly),
        1 => Just(Told::WithoutPosition),
    ];
    prop_oneof![
        4 => (0..SITES, apps()).prop_map(|(site, apps)| Statement::Put { site, apps }),
        2 => (0..SITES).prop_map(|site| Statement::Touch { site }),
        2 => (0..SITES, told).prop_map(|(site, told)| Statement::Delete { site, told }),
        2 => (0..SITES, 0..SITES).prop_map(|(from, to)| Statement::ChangeKey { from, to }),
    ]
}
