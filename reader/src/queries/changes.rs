//! SQL of the change log: where it begins and ends, and what stands in it after a cursor.

use std::collections::BTreeMap;

use deadpool_postgres::ClientWrapper;
use futures_util::try_join;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Row, Statement};

use crate::changes::{Cursor, Filter, Place};
use crate::position::Generation;

/// The log of one generation over one connection.
#[derive(Debug)]
pub(crate) struct ChangeLog {
    client: ClientWrapper,
    pub(crate) generation: Generation,
    ends: Statement,
    page: Statement,
}

/// Where the log begins and ends.
#[derive(Debug)]
pub(crate) struct Ends {
    /// The oldest kept.
    pub(crate) earliest: Cursor,
    /// Behind everything that is there.
    pub(crate) latest: Cursor,
}

/// What one statement read, in one snapshot.
#[derive(Debug, Default)]
pub(crate) struct Page {
    /// The highest generation that this server has seen in service.
    pub(crate) newest_served: Generation,
    pub(crate) partitions: BTreeMap<i32, PartitionPage>,
}

/// What was read of one partition.
#[derive(Debug, Default)]
pub(crate) struct PartitionPage {
    /// The view's position: everything below it is in the log, or was never a change.
    pub(crate) next_offset: i64,
    /// Changes below it are gone.
    pub(crate) floor: Option<i64>,
    /// By place, ascending.
    pub(crate) rows: Vec<ChangeRow>,
    /// Whether `rows` is all there is after the cursor and below the position.
    pub(crate) whole: bool,
}

/// A row of `change`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChangeRow {
    pub(crate) partition: i32,
    pub(crate) place: Place,
    /// When its transaction began; orders partitions among each other, nothing within one.
    pub(crate) written_micros: i64,
    pub(crate) site_id: String,
    pub(crate) app_ids: Vec<String>,
    /// Finished JSON; `None` where the filter leaves the change out.
    pub(crate) event: Option<String>,
}

/// The most that a page may hold of each partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageLimits {
    pub(crate) rows_max: i64,
    /// Of events; one event of each partition may exceed it.
    pub(crate) bytes_max: i64,
}

impl ChangeLog {
    /// Prepares the statements, pipelined: one round trip.
    pub(crate) async fn open(client: ClientWrapper, generation: Generation) -> Result<Self, Error> {
        let (ends_text, page_text) = (ends_sql(generation), page_sql(generation));
        let types =
            [Type::INT4_ARRAY, Type::INT8_ARRAY, Type::INT4_ARRAY, Type::INT8, Type::INT8, Type::TEXT, Type::TEXT];
        let (ends, page) = try_join!(client.prepare_typed(&ends_text, &[]), client.prepare_typed(&page_text, &types))?;
        Ok(Self { client, generation, ends, page })
    }

    /// Where the log begins and ends now; `None` when the generation is no longer the active one.
    pub(crate) async fn ends(&self) -> Result<Option<Ends>, Error> {
        let rows = self.client.query(&self.ends, &[]).await?;
        let mut ends = Ends { earliest: Cursor::new(self.generation, []), latest: Cursor::new(self.generation, []) };
        for row in &rows {
            let Some(partition) = row.try_get(0)? else { continue };
            let latest = Place { offset: row.try_get::<_, i64>(1)? - 1, ordinal: row.try_get(2)? };
            let earliest = row.try_get::<_, Option<i64>>(3)?.map_or(Place::START, |floor| Place::before(floor.max(0)));
            ends.earliest.advance(partition, earliest);
            ends.latest.advance(partition, latest);
        }
        Ok((!rows.is_empty()).then_some(ends))
    }

    /// What stands after a cursor; `None` when the generation is no longer the active one.
    pub(crate) async fn page(
        &self,
        after: &Cursor,
        filter: &Filter,
        limits: PageLimits,
    ) -> Result<Option<Page>, Error> {
        let partitions: Vec<i32> = after.places().map(|(partition, _)| partition).collect();
        let offsets: Vec<i64> = after.places().map(|(_, place)| place.offset).collect();
        let ordinals: Vec<i32> = after.places().map(|(_, place)| place.ordinal).collect();
        let (site_id, app_id) = (filter.site_id(), filter.app_id());
        let PageLimits { rows_max, bytes_max } = limits;
        let rows = self
            .client
            .query(&self.page, &[&partitions, &offsets, &ordinals, &rows_max, &bytes_max, &site_id, &app_id])
            .await?;
        let mut page = Page::default();
        for row in &rows {
            page.newest_served = row.try_get(0)?;
            if let Some(partition) = row.try_get(1)? {
                page.partitions.entry(partition).or_default().add(partition, row, rows_max)?;
            }
        }
        Ok((!rows.is_empty()).then_some(page))
    }
}

impl PartitionPage {
    fn add(&mut self, partition: i32, row: &Row, rows_max: i64) -> Result<(), Error> {
        (self.next_offset, self.floor) = (row.try_get(2)?, row.try_get(3)?);
        let fits: Option<bool> = row.try_get(4)?;
        if fits == Some(true) {
            self.rows.push(ChangeRow {
                partition,
                place: Place { offset: row.try_get(5)?, ordinal: row.try_get(6)? },
                written_micros: row.try_get(7)?,
                site_id: row.try_get(8)?,
                app_ids: row.try_get(9)?,
                event: row.try_get(10)?,
            });
        }
        // The row that does not fit is the last that is sent of its partition.
        self.whole = fits != Some(false) && (self.rows.len() as i64) < rows_max;
        Ok(())
    }
}

/// The greatest ordinal at the last offset belongs to what is there: a repair may have written behind the last record.
fn ends_sql(generation: Generation) -> String {
    let g = format!("view_g{generation}");
    format!(
        r#"select p.partition, p.next_offset,
             coalesce((select max(c.ordinal) from {g}.change c
                       where c.partition = p.partition and c."offset" = p.next_offset - 1), 0),
             f."offset"
           from siteview.generation g
           left join {g}.position p on true
           left join {g}.change_floor f on f.partition = p.partition
           where g.state = 'active' and g.generation = {generation}"#
    )
}

/// One snapshot of positions, floors and changes, so that a page is complete below its positions and a gap is never taken for
/// silence. For each partition the primary key leads to the first change that is wanted. A row that would exceed the bytes
/// comes without its event, and says that there is more.
fn page_sql(generation: Generation) -> String {
    let g = format!("view_g{generation}");
    format!(
        r#"select coalesce(g.newest_served, g.generation), p.partition, p.next_offset, f."offset",
             c.fits, c."offset", c.ordinal, c.micros, c.site_id, c.app_ids, case when c.fits and c.wanted then c.event end
           from siteview.generation g
           left join {g}.position p on true
           left join {g}.change_floor f on f.partition = p.partition
           left join unnest($1, $2, $3) as s (partition, "offset", ordinal) on s.partition = p.partition
           left join lateral (
             select b.*, b.bytes = 0 or b.bytes + b.own <= $5 as fits
             from (
               select r.*, sum(r.own) over w - r.own as bytes
               from (
                 select c.*, case when c.wanted then octet_length(c.event) else 0 end as own from (
                   select c."offset", c.ordinal, c.site_id, c.app_ids, c.event,
                     (extract(epoch from c.written_at) * 1000000)::int8 as micros,
                     ($6 is null or c.site_id = $6) and ($7 is null or $7 = any(c.app_ids)) as wanted
                   from {g}.change c
                   where c.partition = p.partition and c."offset" < p.next_offset
                     and (c."offset", c.ordinal) > (coalesce(s."offset", -1), coalesce(s.ordinal, 0))
                   order by c."offset", c.ordinal limit $4
                 ) c
               ) r
               window w as (order by r."offset", r.ordinal rows unbounded preceding)
             ) b
             where b.bytes <= $5
           ) c on true
           where g.state = 'active' and g.generation = {generation}
           order by p.partition, c."offset", c.ordinal"#
    )
}
