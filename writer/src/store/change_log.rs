//! The change log as it is relayed: where it begins and ends, and what stands in it after some places. Reads only, so that a replica
//! does as well as the primary.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow};

use super::{Primary, active_generation};
use crate::error::StoreError;

/// A place in one partition's log: everything up to it, itself included, has been read.
///
/// The offset alone would not do: a repair has no record of its own, and writes its change under the offset of the last record
/// that was applied, with the next ordinal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Offset of the record.
    pub offset: i64,
    /// Which of its changes.
    pub ordinal: i32,
}

impl Place {
    /// Before everything.
    pub const START: Place = Place { offset: -1, ordinal: 0 };

    /// The place behind all records below an offset.
    pub const fn before(next_offset: i64) -> Self {
        Self { offset: next_offset - 1, ordinal: 0 }
    }
}

/// Places by partition.
pub type Places = BTreeMap<i32, Place>;

/// Where one partition's log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnds {
    /// Behind what is no longer kept.
    pub earliest: Place,
    /// Behind everything.
    pub latest: Place,
}

/// Whose log it is: the active generation, as this database knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    /// Its number.
    pub generation: i32,
    /// Rises with each switch, a rollback too.
    pub activation: i64,
}

/// What one statement read, in one snapshot: below each position nothing can appear later.
#[derive(Debug)]
pub struct LogPage {
    /// Whose log it is.
    pub served: Served,
    /// By partition.
    pub partitions: BTreeMap<i32, PartitionPage>,
}

/// What was read of one partition.
#[derive(Debug, Clone, Default)]
pub struct PartitionPage {
    /// The view's position.
    pub next_offset: i64,
    /// Changes below it are gone.
    pub floor: Option<i64>,
    /// By place, ascending.
    pub rows: Vec<ChangeRow>,
    /// Whether there is nothing more below the position.
    pub whole: bool,
}

/// A row of `change`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangeRow {
    /// Partition of the source.
    pub partition: i32,
    /// Its place there.
    pub place: Place,
    /// When its transaction began, microseconds since 1970; orders partitions among each other, nothing within one.
    pub written_micros: i64,
    /// The site that changed.
    pub site_id: String,
    /// Finished JSON.
    pub event: String,
}

/// The change log of the active generation, over one connection.
#[derive(Debug)]
pub struct ChangeLog {
    database: Primary,
    topic: String,
    connection: Option<PgConnection>,
    /// The active generation when it was looked for last.
    generation: Option<i32>,
}

impl ChangeLog {
    /// A log that connects when it is first read.
    pub fn new(database: Primary, topic: &str) -> Self {
        Self { database, topic: topic.to_owned(), connection: None, generation: None }
    }

    /// Gives up the connection; the next call makes a new one.
    pub fn disconnect(&mut self) {
        (self.connection, self.generation) = (None, None);
    }

    /// Whose log it is, where it begins and ends. Without partitions while nobody has fed the view.
    pub async fn ends(&mut self) -> Result<(Served, BTreeMap<i32, LogEnds>), StoreError> {
        loop {
            let generation = self.active().await?;
            let ends = sqlx::query(AssertSqlSafe(ends_sql(generation))).bind(&self.topic);
            let rows = ends.fetch_all(connected(&mut self.connection)).await?;
            let Some(first) = rows.first() else {
                // Another one has become active.
                self.generation = None;
                continue;
            };
            let served = Served { generation, activation: first.try_get("activation")? };
            let mut ends = BTreeMap::new();
            for row in &rows {
                let Some(partition) = row.try_get(0)? else { continue };
                let latest = Place { offset: row.try_get::<i64, _>(1)? - 1, ordinal: row.try_get(2)? };
                let floor = row.try_get::<Option<i64>, _>(3)?;
                let earliest = floor.map_or(Place::START, |floor| Place::before(floor.max(0)));
                ends.insert(partition, LogEnds { earliest, latest });
            }
            return Ok((served, ends));
        }
    }

    /// What stands after these places: of each partition so many rows, and so many bytes of events, at most.
    pub async fn page(&mut self, after: &Places, rows_max: usize, bytes_max: usize) -> Result<LogPage, StoreError> {
        let partitions: Vec<i32> = after.keys().copied().collect();
        let offsets: Vec<i64> = after.values().map(|place| place.offset).collect();
        let ordinals: Vec<i32> = after.values().map(|place| place.ordinal).collect();
        loop {
            let generation = self.active().await?;
            let rows = sqlx::query(AssertSqlSafe(page_sql(generation)))
                .bind(&partitions)
                .bind(&offsets)
                .bind(&ordinals)
                .bind(rows_max as i64)
                .bind(bytes_max as i64)
                .bind(&self.topic)
                .fetch_all(connected(&mut self.connection))
                .await?;
            let Some(first) = rows.first() else {
                self.generation = None;
                continue;
            };
            let served = Served { generation, activation: first.try_get("activation")? };
            let mut page = LogPage { served, partitions: BTreeMap::new() };
            for row in &rows {
                if let Some(partition) = row.try_get(0)? {
                    page.partitions.entry(partition).or_default().add(partition, row, rows_max)?;
                }
            }
            return Ok(page);
        }
    }

    /// Connects unless there is a connection; gives the generation that is active as far as is known.
    async fn active(&mut self) -> Result<i32, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(self.database.connect_for_reading().await?);
        }
        if let Some(generation) = self.generation {
            return Ok(generation);
        }
        let found = active_generation(connected(&mut self.connection)).await?;
        let generation = found.ok_or(StoreError::NotMigrated("active generation"))?;
        self.generation = Some(generation);
        Ok(generation)
    }
}

fn connected(connection: &mut Option<PgConnection>) -> &mut PgConnection {
    connection.as_mut().expect("just connected")
}

impl PartitionPage {
    fn add(&mut self, partition: i32, row: &PgRow, rows_max: usize) -> Result<(), sqlx::Error> {
        (self.next_offset, self.floor) = (row.try_get(1)?, row.try_get(2)?);
        let fits: Option<bool> = row.try_get(3)?;
        if fits == Some(true) {
            self.rows.push(ChangeRow {
                partition,
                place: Place { offset: row.try_get(4)?, ordinal: row.try_get(5)? },
                written_micros: row.try_get(6)?,
                site_id: row.try_get(7)?,
                event: row.try_get(8)?,
            });
        }
        // The row that does not fit is the last that is sent of its partition.
        self.whole = fits != Some(false) && self.rows.len() < rows_max;
        Ok(())
    }
}

/// The greatest ordinal at the last offset belongs to what is there: a repair may have written behind the last record.
fn ends_sql(generation: i32) -> String {
    let g = format!("view_g{generation}");
    format!(
        r#"select p.partition, p.next_offset,
             coalesce((select max(c.ordinal) from {g}.change c
                       where c.partition = p.partition and c."offset" = p.next_offset - 1), 0),
             f."offset", coalesce(g.activation, 0) as activation
           from siteview.generation g
           left join {g}.position p on p.topic = $1
           left join {g}.change_floor f on f.partition = p.partition
           where g.state = 'active' and g.generation = {generation}"#
    )
}

/// One snapshot of positions, floors and changes, so that a page is complete below its positions and a gap is never taken for
/// silence. A row that would exceed the bytes comes without its event, and says that there is more; the first of a partition
/// always fits.
fn page_sql(generation: i32) -> String {
    let g = format!("view_g{generation}");
    format!(
        r#"select p.partition, p.next_offset, f."offset", c.fits, c."offset", c.ordinal, c.micros, c.site_id,
             case when c.fits then c.event end, coalesce(g.activation, 0) as activation
           from siteview.generation g
           left join {g}.position p on p.topic = $6
           left join {g}.change_floor f on f.partition = p.partition
           left join unnest($1::int[], $2::bigint[], $3::int[]) as s (partition, "offset", ordinal)
             on s.partition = p.partition
           left join lateral (
             select b.*, b.bytes = 0 or b.bytes + b.own <= $5 as fits
             from (
               select r.*, sum(r.own) over (order by r."offset", r.ordinal rows unbounded preceding) - r.own as bytes
               from (
                 select c."offset", c.ordinal, c.site_id, c.event, octet_length(c.event) as own,
                   (extract(epoch from c.written_at) * 1000000)::int8 as micros
                 from {g}.change c
                 where c.partition = p.partition and c."offset" < p.next_offset
                   and (c."offset", c.ordinal) > (coalesce(s."offset", -1), coalesce(s.ordinal, 0))
                 order by c."offset", c.ordinal limit $4
               ) r
             ) b
             where b.bytes <= $5
           ) c on true
           where g.state = 'active' and g.generation = {generation}
           order by p.partition, c."offset", c.ordinal"#
    )
}
