//! All SQL of the reader, and nothing else of it.
//!
//! Statements name the schema of one generation (`view_g1.site_apps`) instead of the plain views: a promotion then takes
//! no lock that a replica's running statements could meet. They are prepared once per connection and generation, and
//! their parameters are bound in binary form. Those of the change log stand in [`changes`], those of samples in [`sample`].
//!
//! What is read comes with a position of the same snapshot, so that an answer never shows more than it claims: look-ups of
//! sites with that of each row, unless a sample of before has all that the row can tell; those whose answer also tells by what
//! it lacks, with the positions of all partitions.

pub(crate) mod changes;
pub(crate) mod sample;

use std::collections::HashMap;
use std::future::Future;

use bytes::Bytes;
use deadpool_postgres::ClientWrapper;
use futures_util::try_join;
use http::HeaderValue;
use shared::ids::{AppId, InstanceId, SiteId};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Error, Row, Statement};

use crate::answer::quoted;
use crate::error::Failure;
use crate::position::{Generation, Positions, RowPosition, Sample};
use crate::replicas::Connection;

/// The most rows of a page that a look-up asks for.
pub(crate) const PAGE_ROWS_MAX: i64 = 1001;

/// One look-up: a value, so that it can be asked again elsewhere.
pub(crate) trait Query: Sync {
    /// What the rows say.
    type Found: Send;

    /// Sends one statement, or takes part in one, and reads its rows.
    fn ask(&self, session: Session<'_>) -> impl Future<Output = Result<Self::Found, Failure>> + Send;

    /// Whether what was found is at least of this version of its site; true for what has none.
    fn reaches(_found: &Self::Found, _version: i64) -> bool {
        true
    }
}

/// A connection and its statements of the generation that is asked.
#[derive(Clone, Copy)]
pub(crate) struct Session<'a> {
    pub(crate) connection: &'a Connection,
    pub(crate) statements: &'a Statements,
    /// Of the same replica, taken before.
    pub(crate) sample: &'a Sample,
}

impl Session<'_> {
    fn client(&self) -> &ClientWrapper {
        &self.connection.client
    }
}

/// The statements of one generation on one connection.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) generation: Generation,
    site: Statement,
    app_page: Statement,
    app_page_documents: Statement,
    app_count: Statement,
    instance: Statement,
    sites: Statement,
    sites_placed: Statement,
}

impl Statements {
    /// Prepares all of them, pipelined: one round trip.
    pub(crate) async fn prepare(client: &ClientWrapper, generation: Generation) -> Result<Self, Error> {
        let g = format!("view_g{generation}");
        let row = |position: &str| {
            format!(
                "select s.site_id, case when s.deleted_at is null then s.document end, s.etag, s.version, s.partition, \
                 {position} from {g}.site_apps s"
            )
        };
        let site = format!("{} where s.site_id = $1", row("s.\"offset\" + 1"));
        let sites = format!("{} where s.site_id = any($1)", row("s.\"offset\" + 1"));
        let placed = row("least(s.\"offset\" + 1, p.next_offset)");
        let sites_placed = format!("{placed} left join {g}.position p using (partition) where s.site_id = any($1)");
        let positions = format!(
            "select string_agg(partition || ':' || next_offset, ',' order by partition) as positions from {g}.position"
        );
        // The row comparison is the primary key's order: the page starts at one place of the index.
        let page = format!(
            "select site_id, instance_id from ( \
               select site_id, instance_id from {g}.app_site where app_id = $1 and (site_id, instance_id) > ($2, $3) \
               order by site_id, instance_id limit {PAGE_ROWS_MAX} \
             ) r order by site_id, instance_id limit $4"
        );
        let page_documents = format!(
            "select p.site_id, p.instance_id, s.document from ({page}) p join {g}.site_apps s using (site_id) \
             where s.deleted_at is null"
        );
        let (page, page_documents) =
            (behind(&positions, &page, "null"), behind(&positions, &page_documents, "document"));
        let count =
            format!("select coalesce(sum(sites), 0)::bigint, ({positions}) from {g}.app_count where app_id = $1");
        // `<> ''` is the predicate of the index. On two sites for a moment (key change), the one written last.
        let instance = format!(
            "select p.positions, i.app_id, i.site_id, i.document from ({positions}) p left join ( \
               select a.app_id, a.site_id, s.document from {g}.app_site a join {g}.site_apps s using (site_id) \
               where a.instance_id = $1 and a.instance_id <> '' and s.deleted_at is null \
               order by s.written_at desc, a.site_id, a.app_id limit 1 \
             ) i on true"
        );
        // Else Postgres plans most executions anew, to know the values, which takes longer than the look-up. Nothing here gains
        // by values that are known: keys lead to rows, and a page's bound is written in its statement.
        let generic = client.batch_execute("set plan_cache_mode = force_generic_plan");
        let ((), site, app_page, app_page_documents, app_count, instance, sites, sites_placed) = try_join!(
            generic,
            client.prepare_typed(&site, &[Type::TEXT]),
            client.prepare_typed(&page, &[Type::TEXT, Type::TEXT, Type::TEXT, Type::INT8]),
            client.prepare_typed(&page_documents, &[Type::TEXT, Type::TEXT, Type::TEXT, Type::INT8]),
            client.prepare_typed(&count, &[Type::TEXT]),
            client.prepare_typed(&instance, &[Type::TEXT]),
            client.prepare_typed(&sites, &[Type::TEXT_ARRAY]),
            client.prepare_typed(&sites_placed, &[Type::TEXT_ARRAY]),
        )?;
        Ok(Self { generation, site, app_page, app_page_documents, app_count, instance, sites, sites_placed })
    }

    /// The rows of these sites, each named once, by site.
    pub(crate) async fn sites(
        &self,
        client: &ClientWrapper,
        placing: Placing,
        site_ids: &[&str],
    ) -> Result<Sites, Error> {
        let rows = match (placing, site_ids) {
            (Placing::Record, [site_id]) => client.query(&self.site, &[site_id]).await?,
            (Placing::Record, _) => client.query(&self.sites, &[&site_ids]).await?,
            (Placing::Snapshot, _) => client.query(&self.sites_placed, &[&site_ids]).await?,
        };
        rows.into_iter().map(|row| Ok((row.try_get(0)?, FoundSite::read(row)?))).collect()
    }
}

/// What the position of a row is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placing {
    /// The record that wrote the row. It tells nothing beyond a sample that was taken before: where the topic was made anew
    /// since, or the position set back, its offset is beyond what the view contains.
    Record,
    /// The record, and the position in the same snapshot, whichever is less: never beyond the truth. The join takes a seventh
    /// of what the rows cost.
    Snapshot,
}

/// Rows by site.
pub(crate) type Sites = HashMap<String, FoundSite>;

/// The rows of a page behind one row of positions, in one snapshot; that row has no site.
fn behind(positions: &str, page: &str, document: &str) -> String {
    format!(
        "select positions, site_id, instance_id, document from ( \
           select positions, null::text collate \"C\" as site_id, null::text collate \"C\" as instance_id, \
             null::text as document from ({positions}) p \
           union all select null, site_id, instance_id, {document} from ({page}) r \
         ) r order by site_id nulls first, instance_id"
    )
}

/// The row of one site, placed by its record or by its snapshot.
pub(crate) struct Site<'a>(pub(crate) &'a SiteId, pub(crate) Placing);

/// What a site's row says.
#[derive(Debug, Clone)]
pub(crate) struct FoundSite {
    /// `None` of a deleted site, whose row marks it as such.
    pub(crate) document: Option<Document>,
    pub(crate) position: RowPosition,
}

/// A live site's document.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// JSON text as stored.
    pub(crate) text: Bytes,
    /// Strong tag with its quotes; `None` if it holds what a header can't.
    pub(crate) etag: Option<HeaderValue>,
    pub(crate) version: Option<i64>,
}

impl FoundSite {
    fn read(row: Row) -> Result<Self, Error> {
        let etag = quoted(row.try_get::<_, Text>(2)?.0);
        let version = row.try_get(3)?;
        let position = RowPosition { partition: row.try_get(4)?, next_offset: row.try_get(5)? };
        let document = column_bytes(row, 1)?.map(|text| Document { text, etag, version });
        Ok(Self { document, position })
    }
}

impl Query for Site<'_> {
    type Found = Option<FoundSite>;

    /// Shares a statement with others that come at the same time. A row that is newer than the sample is read once more, placed
    /// by its snapshot.
    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        let Self(site_id, placing) = self;
        let ask = |placing| session.connection.look_up(session.statements.generation, placing, site_id.as_str());
        let found = ask(*placing).await?;
        let is_placed =
            *placing == Placing::Snapshot || found.as_ref().is_none_or(|found| session.sample.contains(found.position));
        if is_placed { Ok(found) } else { ask(Placing::Snapshot).await }
    }

    /// An unknown or deleted site has reached no version, nor has one whose version is not mapped.
    fn reaches(found: &Self::Found, version: i64) -> bool {
        found.as_ref().and_then(|found| found.document.as_ref()?.version).is_some_and(|reached| reached >= version)
    }
}

/// The place of a row among the sites of an app; both empty before the first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PageKey {
    pub(crate) site_id: String,
    pub(crate) instance_id: String,
}

/// The sites of an app after a key, ascending by site, then instance (by bytes).
pub(crate) struct AppPage<'a> {
    pub(crate) app_id: &'a AppId,
    pub(crate) after: &'a PageKey,
    pub(crate) rows_max: i64,
    pub(crate) with_documents: bool,
}

/// One installation of the app.
pub(crate) struct AppPageRow {
    pub(crate) key: PageKey,
    /// The site's document, where asked for.
    pub(crate) document: Option<Bytes>,
}

impl Query for AppPage<'_> {
    type Found = (Vec<AppPageRow>, Positions);

    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        let Statements { app_page, app_page_documents, .. } = session.statements;
        let statement = if self.with_documents { app_page_documents } else { app_page };
        let PageKey { site_id, instance_id } = self.after;
        let rows =
            session.client().query(statement, &[&self.app_id.as_str(), site_id, instance_id, &self.rows_max]).await?;
        let mut rows = rows.into_iter();
        let positions = rows.next().map(|row| row.try_get::<_, Option<String>>(0)).transpose()?.flatten();
        let read = |row: Row| {
            let key = PageKey { site_id: row.try_get(1)?, instance_id: row.try_get(2)? };
            Ok(AppPageRow { key, document: column_bytes(row, 3)? })
        };
        Ok((rows.map(read).collect::<Result<_, Error>>()?, Positions(positions)))
    }
}

/// How many sites have an app.
pub(crate) struct AppCount<'a>(pub(crate) &'a AppId);

impl Query for AppCount<'_> {
    type Found = (i64, Positions);

    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        let row = session.client().query_one(&session.statements.app_count, &[&self.0.as_str()]).await?;
        Ok((row.try_get(0)?, Positions(row.try_get(1)?)))
    }
}

/// Where an instance is installed.
pub(crate) struct Instance<'a>(pub(crate) &'a InstanceId);

/// An instance's place and its site's document.
pub(crate) struct FoundInstance {
    pub(crate) app_id: String,
    pub(crate) site_id: String,
    pub(crate) document: Bytes,
}

impl Query for Instance<'_> {
    type Found = (Option<FoundInstance>, Positions);

    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        let row = session.client().query_one(&session.statements.instance, &[&self.0.as_str()]).await?;
        let positions = Positions(row.try_get(0)?);
        let (app_id, site_id): (Option<String>, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
        let found = app_id.zip(site_id).zip(column_bytes(row, 3)?);
        Ok((found.map(|((app_id, site_id), document)| FoundInstance { app_id, site_id, document }), positions))
    }
}

/// The rows of several sites, each named once.
pub(crate) struct Batch<'a>(pub(crate) &'a [&'a str]);

impl Query for Batch<'_> {
    /// Those that are there.
    type Found = Sites;

    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        Ok(session.statements.sites(session.client(), Placing::Snapshot, self.0).await?)
    }
}

/// A column of text as the bytes that came; Postgres has checked that they are UTF-8.
struct Text<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Text<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT
    }
}

/// The bytes of a text column, shared with the row and not copied; `None` for a null.
fn column_bytes(row: Row, index: usize) -> Result<Option<Bytes>, Error> {
    struct Column(Row, usize);

    impl AsRef<[u8]> for Column {
        fn as_ref(&self) -> &[u8] {
            self.0.get::<_, Text>(self.1).0
        }
    }

    let is_there = row.try_get::<_, Option<Text>>(index)?.is_some();
    Ok(is_there.then(|| Bytes::from_owner(Column(row, index))))
}
