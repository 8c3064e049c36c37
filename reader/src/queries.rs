//! All SQL of the reader, and nothing else of it.
//!
//! Statements name the schema of one generation (`view_g1.site_apps`) instead of the plain views: a promotion then takes
//! no lock that a replica's running statements could meet. They are prepared once per connection and generation, and
//! their parameters are bound in binary form. Those of the change log stand in [`changes`].

pub(crate) mod changes;

use std::collections::HashMap;
use std::future::Future;

use bytes::Bytes;
use deadpool_postgres::ClientWrapper;
use futures_util::try_join;
use shared::ids::{AppId, InstanceId, SiteId};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Error, Row, Statement};

use crate::error::Failure;
use crate::position::{Generation, PartitionPosition, Progress, Sample};
use crate::replicas::Connection;

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
}

impl Session<'_> {
    fn client(&self) -> &ClientWrapper {
        &self.connection.client
    }

    /// The documents of these sites, each named once, by site.
    pub(crate) async fn documents(&self, site_ids: &[&str]) -> Result<HashMap<String, FoundDocument>, Error> {
        let rows = match site_ids {
            [site_id] => self.client().query(&self.statements.site, &[site_id]).await?,
            _ => self.client().query(&self.statements.sites, &[&site_ids]).await?,
        };
        rows.into_iter().map(|row| Ok((row.try_get(0)?, FoundDocument::read(row)?))).collect()
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
}

impl Statements {
    /// Prepares all of them, pipelined: one round trip.
    pub(crate) async fn prepare(client: &ClientWrapper, generation: Generation) -> Result<Self, Error> {
        let g = format!("view_g{generation}");
        let document =
            format!("select site_id, document, etag, partition, version from {g}.site_apps where deleted_at is null");
        let site = format!("{document} and site_id = $1");
        let sites = format!("{document} and site_id = any($1)");
        // The row comparison is the primary key's order: the page starts at one place of the index.
        let page = format!(
            "select site_id, instance_id from {g}.app_site where app_id = $1 and (site_id, instance_id) > ($2, $3) \
             order by site_id, instance_id limit $4"
        );
        let page_documents = format!(
            "select p.site_id, p.instance_id, s.document from ({page}) p join {g}.site_apps s using (site_id) \
             where s.deleted_at is null order by p.site_id, p.instance_id"
        );
        let count = format!("select coalesce(sum(sites), 0)::bigint from {g}.app_count where app_id = $1");
        // `<> ''` is the predicate of the index. On two sites for a moment (key change), the one written last.
        let instance = format!(
            "select a.app_id, a.site_id, s.document from {g}.app_site a join {g}.site_apps s using (site_id) \
             where a.instance_id = $1 and a.instance_id <> '' and s.deleted_at is null \
             order by s.written_at desc, a.site_id, a.app_id limit 1"
        );
        let (site, app_page, app_page_documents, app_count, instance, sites) = try_join!(
            client.prepare_typed(&site, &[Type::TEXT]),
            client.prepare_typed(&page, &[Type::TEXT, Type::TEXT, Type::TEXT, Type::INT8]),
            client.prepare_typed(&page_documents, &[Type::TEXT, Type::TEXT, Type::TEXT, Type::INT8]),
            client.prepare_typed(&count, &[Type::TEXT]),
            client.prepare_typed(&instance, &[Type::TEXT]),
            client.prepare_typed(&sites, &[Type::TEXT_ARRAY]),
        )?;
        Ok(Self { generation, site, app_page, app_page_documents, app_count, instance, sites })
    }
}

/// The document of one site.
pub(crate) struct SiteDocument<'a>(pub(crate) &'a SiteId);

/// A live site's row.
#[derive(Debug, Clone)]
pub(crate) struct FoundDocument {
    /// JSON text as stored.
    pub(crate) document: Bytes,
    /// Strong tag without quotes.
    pub(crate) etag: Bytes,
    pub(crate) partition: i32,
    pub(crate) version: Option<i64>,
}

impl FoundDocument {
    fn read(row: Row) -> Result<Self, Error> {
        let etag = Bytes::copy_from_slice(row.try_get::<_, Text>(2)?.0);
        let (partition, version) = (row.try_get(3)?, row.try_get(4)?);
        Ok(Self { etag, partition, version, document: column_bytes(row, 1)? })
    }
}

impl Query for SiteDocument<'_> {
    type Found = Option<FoundDocument>;

    /// Shares a statement with others that come at the same time.
    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        session.connection.look_up(session.statements.generation, self.0.as_str()).await
    }

    /// An unknown or deleted site has reached no version, nor has one whose version is not mapped.
    fn reaches(found: &Self::Found, version: i64) -> bool {
        found.as_ref().and_then(|found| found.version).is_some_and(|reached| reached >= version)
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
    type Found = Vec<AppPageRow>;

    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        let Statements { app_page, app_page_documents, .. } = session.statements;
        let statement = if self.with_documents { app_page_documents } else { app_page };
        let PageKey { site_id, instance_id } = self.after;
        let rows =
            session.client().query(statement, &[&self.app_id.as_str(), site_id, instance_id, &self.rows_max]).await?;
        let read = |row: Row| {
            let key = PageKey { site_id: row.try_get(0)?, instance_id: row.try_get(1)? };
            let document = if self.with_documents { Some(column_bytes(row, 2)?) } else { None };
            Ok(AppPageRow { key, document })
        };
        Ok(rows.into_iter().map(read).collect::<Result<_, Error>>()?)
    }
}

/// How many sites have an app.
pub(crate) struct AppCount<'a>(pub(crate) &'a AppId);

impl Query for AppCount<'_> {
    type Found = i64;

    async fn ask(&self, session: Session<'_>) -> Result<i64, Failure> {
        Ok(session.client().query_one(&session.statements.app_count, &[&self.0.as_str()]).await?.try_get(0)?)
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
    type Found = Option<FoundInstance>;

    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        let row = session.client().query_opt(&session.statements.instance, &[&self.0.as_str()]).await?;
        let read = |row: Row| {
            let (app_id, site_id) = (row.try_get(0)?, row.try_get(1)?);
            Ok::<_, Error>(FoundInstance { app_id, site_id, document: column_bytes(row, 2)? })
        };
        Ok(row.map(read).transpose()?)
    }
}

/// The documents of several sites, each named once.
pub(crate) struct Batch<'a>(pub(crate) &'a [&'a str]);

impl Query for Batch<'_> {
    /// Those that are there, by site.
    type Found = HashMap<String, FoundDocument>;

    async fn ask(&self, session: Session<'_>) -> Result<Self::Found, Failure> {
        Ok(session.documents(self.0).await?)
    }
}

/// The generation that is served at the moment; `None` before the first.
pub(crate) async fn active_generation(client: &ClientWrapper) -> Result<Option<Generation>, Error> {
    let sql = "select generation from siteview.generation where state = 'active'";
    client.query_opt(sql, &[]).await?.map(|row| row.try_get(0)).transpose()
}

/// Prepares the statement of [`sample`] for one generation.
pub(crate) async fn prepare_sample(client: &ClientWrapper, generation: Generation) -> Result<Statement, Error> {
    // One statement, so that generation, positions and progress are of one snapshot. Functions of the log read what is true
    // now, which is at least that; received is read after replayed, so that it is never less.
    let sql = format!(
        "select g.generation, p.partition, p.next_offset, (extract(epoch from p.as_of) * 1000000)::bigint, \
         coalesce(g.newest_served, g.generation), (extract(epoch from p.updated_at) * 1000000)::bigint, \
         l.follows, l.replayed, (pg_last_wal_receive_lsn() - '0/0')::bigint, p.epoch \
         from siteview.generation g \
         left join view_g{generation}.position p on true \
         cross join (select pg_is_in_recovery() as follows, (pg_last_wal_replay_lsn() - '0/0')::bigint as replayed) l \
         where g.state = 'active'"
    );
    client.prepare(&sql).await
}

/// Samples a replica. `None` when the generation that the statement was prepared for is no longer the active one.
pub(crate) async fn sample(
    client: &ClientWrapper,
    statement: &Statement,
    generation: Generation,
) -> Result<Option<Sample>, Error> {
    let rows = client.query(statement, &[]).await?;
    let (mut positions, mut progress, mut newest_served) = (Vec::new(), Progress::default(), generation);
    let mut claims = 0_i64;
    for row in &rows {
        if row.try_get::<_, Generation>(0)? != generation {
            return Ok(None);
        }
        newest_served = row.try_get(4)?;
        let moved_at = progress.moved_at.max(row.try_get(5)?);
        let (follows, replayed, received) = (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
        progress = Progress { moved_at, received, replayed, follows };
        let Some(partition) = row.try_get(1)? else { continue };
        let as_of = row.try_get::<_, Option<i64>>(3)?.and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
        positions.push(PartitionPosition { partition, next_offset: row.try_get(2)?, as_of });
        claims = claims.wrapping_add(row.try_get(9)?);
    }
    Ok((!rows.is_empty()).then(|| Sample::new(generation, newest_served, positions, progress).with_claims(claims)))
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

/// The bytes of a text column, shared with the row and not copied.
fn column_bytes(row: Row, index: usize) -> Result<Bytes, Error> {
    struct Column(Row, usize);

    impl AsRef<[u8]> for Column {
        fn as_ref(&self) -> &[u8] {
            self.0.get::<_, Text>(self.1).0
        }
    }

    row.try_get::<_, Text>(index)?;
    Ok(Bytes::from_owner(Column(row, index)))
}
