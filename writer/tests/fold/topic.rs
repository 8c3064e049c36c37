//! A history of the source table as the Kafka records that a Debezium connector makes of it, crashes of its own included.

use proptest::{collection::vec, option, prelude::*};
use shared::envelope::Headers;

use crate::source::{
    Apps, Change, Positions, Row, Rows, Statement, Table, What, apps, first_lsn, snapshot_lsn, statement,
};

/// A history, and everything that chance decides about its records and their reading.
#[derive(Debug, Clone)]
pub struct Case {
    pub positions: Positions,
    pub partitions: usize,
    pub initial: Vec<Apps>,
    pub initial_read: InitialRead,
    pub transactions: Vec<(Vec<Statement>, Then)>,
    /// A repeat that the end of the topic cuts off, as (first change from the end, transactions).
    pub last_repeat: Option<(u8, u8)>,
    /// Decide value forms and gaps between offsets, in turn.
    pub forms: Vec<u8>,
    /// Decide where batches are cut and which are lost, in turn.
    pub cuts: Vec<u8>,
    /// Which pair of neighbours is swapped, where a test does that.
    pub swap: usize,
}

/// How the rows that are older than the topic came into it.
#[derive(Debug, Clone)]
pub enum InitialRead {
    /// By a snapshot, of which a first attempt may have died after some rows.
    Snapshot { died_after: usize },
    /// By an incremental snapshot, whose rows have no position.
    Incremental,
}

/// What the source does after a transaction. Numbers count changes or transactions back from the newest.
#[derive(Debug, Clone)]
pub enum Then {
    /// It goes on.
    Nothing,
    /// It crashes when it has told the transaction up to here, and begins again further back.
    CrashWithin { told: u8, back: u8 },
    /// It repeats changes, perhaps crashing once more on the way.
    Repeat { back: u8, crash: Option<(u8, u8)> },
    /// It takes a snapshot; where each change has a position perhaps one of a moment that has passed.
    Snapshot { back: u8 },
    /// An incremental snapshot reads all rows.
    Incremental,
}

/// A record as it is on the wire.
#[derive(Debug, Clone)]
pub struct Record {
    pub offset: i64,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
    pub headers: RecordHeaders,
}

/// Headers in order.
#[derive(Debug, Clone, Default)]
pub struct RecordHeaders(pub Vec<(String, Vec<u8>)>);

impl Headers for &RecordHeaders {
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().rev().find(|(header, _)| header == name).map(|(_, value)| value.as_slice())
    }
}

/// The topic: records by partition; and the rows that the source has at its end.
#[derive(Debug, Clone)]
pub struct Topic {
    pub partitions: Vec<Vec<Record>>,
    pub rows: Rows,
}

impl Case {
    /// The topic of this history.
    pub fn topic(&self) -> Topic {
        let mut table = Table::default();
        let initial: Vec<_> = self.initial.iter().enumerate().map(|(site, apps)| put(site, apps)).collect();
        table.run(&initial, 0, self.positions);
        let mut feed = Feed { case: self, log: Vec::new(), starts: Vec::new(), states: Vec::new(), told: Vec::new() };
        feed.states.push((0, table.rows.clone()));
        match self.initial_read {
            InitialRead::Snapshot { died_after } => {
                feed.read(&table.rows, Some(first_lsn(0)), died_after);
                feed.read(&table.rows, Some(snapshot_lsn(0)), usize::MAX);
            }
            InitialRead::Incremental => feed.read(&table.rows, None, usize::MAX),
        }
        for (n, (statements, then)) in self.transactions.iter().enumerate() {
            let changes = table.run(statements, n + 1, self.positions);
            feed.transaction(changes, &table.rows, then);
        }
        if let Some((back, transactions)) = self.last_repeat.filter(|_| self.positions == Positions::All) {
            feed.last_repeat(back, transactions);
        }
        Topic { partitions: feed.records(), rows: table.rows }
    }
}

fn put(site: usize, apps: &Apps) -> Statement {
    Statement::Put { site, apps: apps.clone() }
}

/// The topic in the making.
struct Feed<'c> {
    case: &'c Case,
    /// What the source's log has told so far.
    log: Vec<Change>,
    /// Where in `log` the source may begin again.
    starts: Vec<usize>,
    /// Length of `log` and rows after each transaction.
    states: Vec<(usize, Rows)>,
    /// What stands in the topic.
    told: Vec<Change>,
}

impl Feed<'_> {
    fn transaction(&mut self, changes: Vec<Change>, rows: &Rows, then: &Then) {
        let begin = self.log.len();
        self.starts.extend(changes.iter().enumerate().filter(|(_, change)| change.starts).map(|(n, _)| begin + n));
        self.log.extend(changes);
        self.states.push((self.log.len(), rows.clone()));
        if let Then::CrashWithin { told, back } = then {
            let told = begin + usize::from(*told) % (self.log.len() - begin + 1);
            self.told.extend_from_slice(&self.log[begin..told]);
            return self.tell_from(self.start_before(begin, *back).min(begin));
        }
        self.tell_from(begin);
        match then {
            Then::Nothing | Then::CrashWithin { .. } => {}
            Then::Repeat { back, crash: None } => self.tell_from(self.start_before(self.log.len(), *back)),
            Then::Repeat { back, crash: Some((told, again)) } => {
                let start = self.start_before(self.log.len(), *back);
                let crash = start + usize::from(*told) % (self.log.len() - start + 1);
                self.told.extend_from_slice(&self.log[start..crash]);
                self.tell_from(self.start_before(crash, *again));
            }
            Then::Snapshot { back } => {
                let back =
                    if self.case.positions == Positions::All { usize::from(*back) % self.states.len() } else { 0 };
                let moment = self.states.len() - 1 - back;
                let rows = self.states[moment].1.clone();
                self.read(&rows, Some(snapshot_lsn(moment)), usize::MAX);
            }
            Then::Incremental => self.read(rows, None, usize::MAX),
        }
    }

    /// A place to begin again, `back` steps before `end`.
    fn start_before(&self, end: usize, back: u8) -> usize {
        let starts: Vec<_> = self.starts.iter().copied().filter(|start| *start < end).collect();
        match starts.len() {
            0 => end,
            count => starts[count - 1 - usize::from(back) % count],
        }
    }

    fn tell_from(&mut self, start: usize) {
        self.told.extend_from_slice(&self.log[start..]);
    }

    fn last_repeat(&mut self, back: u8, transactions: u8) {
        let start = self.start_before(self.log.len(), back);
        let ends: Vec<_> = self.states.iter().map(|(end, _)| *end).filter(|end| *end >= start).collect();
        let end = ends[usize::from(transactions) % ends.len()];
        self.told.extend_from_slice(&self.log[start..end]);
    }

    fn read(&mut self, rows: &Rows, position: Option<u64>, rows_max: usize) {
        let position = position.filter(|_| self.case.positions != Positions::None);
        let read = |(site, row): (&usize, &Row)| Change {
            site: *site,
            position,
            what: What::Write { op: 'r', apps: Some(row.apps.clone()), version: row.version, old_key: None },
            starts: true,
        };
        self.told.extend(rows.iter().take(rows_max).map(read));
    }

    fn records(&self) -> Vec<Vec<Record>> {
        let mut partitions = vec![Vec::<Record>::new(); self.case.partitions];
        for (n, change) in self.told.iter().enumerate() {
            let form = self.case.forms[n % self.case.forms.len()].wrapping_add(n as u8);
            let partition = &mut partitions[change.site % self.case.partitions];
            let next = partition.last().map_or(0, |record| record.offset + 1);
            // A transaction marker takes an offset.
            let mut record = Record { offset: next + i64::from(form.is_multiple_of(5)), ..change.record(form) };
            if form.is_multiple_of(3) {
                record.headers.0.push(("__debezium.context.taskId".to_owned(), b"0".to_vec()));
            }
            partition.push(record);
        }
        partitions
    }
}

/// One record in a partition, and the next of the same key: exchanges their places.
pub fn swap_neighbours(topic: &mut Topic, which: usize) {
    let mut pairs = Vec::new();
    for (partition, records) in topic.partitions.iter().enumerate() {
        for (first, record) in records.iter().enumerate() {
            let same = |other: &Record| site_of(&other.key) == site_of(&record.key);
            if let Some(between) = records[first + 1..].iter().position(same) {
                pairs.push((partition, first, first + 1 + between));
            }
        }
    }
    let Some((partition, first, second)) = pairs.get(which % pairs.len().max(1)).copied() else {
        return;
    };
    let records = &mut topic.partitions[partition];
    let offsets = (records[first].offset, records[second].offset);
    records.swap(first, second);
    (records[first].offset, records[second].offset) = offsets;
}

fn site_of(key: &[u8]) -> Vec<u8> {
    let name = key.windows(2).find(|name| name[0] == b's' && name[1].is_ascii_digit());
    name.expect("keys name a site").to_vec()
}

impl Change {
    fn record(&self, form: u8) -> Record {
        let mut headers = RecordHeaders::default();
        let value = match &self.what {
            What::Write { op, apps, version, old_key } => {
                if let Some(old_key) = old_key {
                    headers.0.push(("__debezium.oldkey".to_owned(), format!(r#"{{"site_id":"s{old_key}"}}"#).into()));
                }
                let row = row(self.site, apps.as_ref(), *version, form / 8);
                Some(self.value(*op, "null", &row, form, &mut headers))
            }
            What::Delete { new_key } => {
                self.new_key(*new_key, &mut headers);
                let fillers = format!(r#""site_id":"s{}","owner_id":"","version":0,"installed_apps":"[]""#, self.site);
                match form % 4 {
                    3 => {
                        self.header_fields('d', &mut headers);
                        (form % 16 == 3).then(|| r#"{"schema":null,"payload":null}"#.to_owned())
                    }
                    2 => Some(format!(r#"{{{fillers},{},"__deleted":"true"}}"#, self.flat_fields('d'))),
                    _ => Some(self.value('d', &format!("{{{fillers}}}"), "null", form, &mut headers)),
                }
            }
            What::Tombstone { new_key } => {
                self.new_key(*new_key, &mut headers);
                (form.is_multiple_of(4)).then(|| r#"{"schema":{"optional":true},"payload":null}"#.to_owned())
            }
        };
        Record { offset: 0, key: key(self.site, form / 4), value: value.map(String::into_bytes), headers }
    }

    fn new_key(&self, new_key: Option<usize>, headers: &mut RecordHeaders) {
        if let Some(new_key) = new_key {
            headers.0.push(("__debezium.newkey".to_owned(), format!(r#"{{"site_id":"s{new_key}"}}"#).into()));
        }
    }

    /// The value in one of its forms; `after` is the text of an object (or, of a delete, null).
    fn value(&self, op: char, before: &str, after: &str, form: u8, headers: &mut RecordHeaders) -> String {
        let lsn = self.position.map_or("null".to_owned(), |lsn| lsn.to_string());
        let source =
            format!(r#"{{"connector":"postgresql","ts_ms":1700000000000,"sequence":"[null,\"1\"]","lsn":{lsn}}}"#);
        let envelope =
            format!(r#"{{"before":{before},"after":{after},"source":{source},"op":"{op}","ts_ms":1700000000001}}"#);
        match form % 4 {
            0 => format!(r#"{{"schema":{{"type":"struct","fields":[]}},"payload":{envelope}}}"#),
            2 => format!(r#"{},{},"__deleted":"false"}}"#, after.trim_end_matches('}'), self.flat_fields(op)),
            3 => {
                self.header_fields(op, headers);
                after.to_owned()
            }
            _ => envelope,
        }
    }

    fn flat_fields(&self, op: char) -> String {
        let lsn = self.position.map_or(String::new(), |lsn| format!(r#","__lsn":{lsn}"#));
        format!(r#""__op":"{op}"{lsn}"#)
    }

    fn header_fields(&self, op: char, headers: &mut RecordHeaders) {
        headers.0.push(("__op".to_owned(), op.to_string().into()));
        if let Some(lsn) = self.position {
            headers.0.push(("__source_lsn".to_owned(), lsn.to_string().into()));
        }
    }
}

fn key(site: usize, form: u8) -> Vec<u8> {
    match form % 4 {
        0 => format!(r#"{{"schema":{{"type":"struct"}},"payload":{{"site_id":"s{site}"}}}}"#),
        1 => format!(r#"{{"site_id":"s{site}"}}"#),
        2 => format!(r#""s{site}""#),
        _ => format!("s{site}"),
    }
    .into_bytes()
}

fn row(site: usize, apps: Option<&Apps>, version: Option<i64>, form: u8) -> String {
    let version = match version {
        None => "null".to_owned(),
        Some(version) if form.is_multiple_of(2) => version.to_string(),
        Some(version) => format!(r#""{version}""#),
    };
    let name = if form.is_multiple_of(3) { "__debezium_unavailable_value" } else { "a name" };
    let apps = match apps.map(array) {
        Some(array) if form.is_multiple_of(2) => {
            format!(r#","installed_apps":{}"#, serde_json::to_string(&array).expect("text"))
        }
        Some(array) => format!(r#","installed_apps":{array}"#),
        None if form % 8 == 7 => String::new(),
        None => r#","installed_apps":"__debezium_unavailable_value""#.to_owned(),
    };
    format!(r#"{{"site_id":"s{site}","owner_id":"o","version":{version},"name":"{name}"{apps}}}"#)
}

fn array(apps: &Apps) -> String {
    let element = |app: &crate::source::App| {
        let instance = app.instance.map_or(String::new(), |instance| format!(r#""instanceId":"i{instance}","#));
        let status = if app.installed { "INSTALLED" } else { "UNINSTALLED" };
        format!(r#"{{"status":"{status}",{instance}"appDefId":"a{}","version":"{}"}}"#, app.app, app.version)
    };
    format!("[{}]", apps.list.iter().map(element).collect::<Vec<_>>().join(", "))
}

/// Any history.
pub fn case() -> impl Strategy<Value = Case> {
    let positions =
        prop_oneof![3 => Just(Positions::All), 1 => Just(Positions::NotOfAllDeletes), 1 => Just(Positions::None)];
    let initial_read = prop_oneof![
        2 => (0..4usize).prop_map(|died_after| InitialRead::Snapshot { died_after }),
        1 => Just(InitialRead::Incremental),
    ];
    let transactions = vec((vec(statement(), 1..4), then()), 1..8);
    let chance = (vec(any::<u8>(), 1..12), vec(any::<u8>(), 1..24), 0..1000usize);
    let last_repeat = option::of((any::<u8>(), any::<u8>()));
    (positions, 1..4usize, vec(apps(), 0..3), initial_read, transactions, last_repeat, chance).prop_map(
        |(positions, partitions, initial, initial_read, transactions, last_repeat, (forms, cuts, swap))| Case {
            positions,
            partitions,
            initial,
            initial_read,
            transactions,
            last_repeat,
            forms,
            cuts,
            swap,
        },
    )
}

fn then() -> impl Strategy<Value = Then> {
    prop_oneof![
        5 => Just(Then::Nothing),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(told, back)| Then::CrashWithin { told, back }),
        2 => (any::<u8>(), option::of((any::<u8>(), any::<u8>()))).prop_map(|(back, crash)| Then::Repeat { back, crash }),
        1 => any::<u8>().prop_map(|back| Then::Snapshot { back }),
        1 => Just(Then::Incremental),
    ]
}
