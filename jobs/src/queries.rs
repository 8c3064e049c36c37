//! The SQL of jobs: what importers wrote about rows that failed. Read only.

use serde::Serialize;
use shared::import::ImportId;
use sqlx::{PgPool, Row as _};

/// The next errors behind a row and a column, in the file's order.
const ERRORS: &str = "select line, \"column\", code, message, \"row\" from import_row_error \
    where import_id = $1::text::uuid and (line, \"column\") > ($2, $3) order by line, \"column\" limit $4";

/// One thing that is wrong with one row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RowError {
    /// On which the row begins in the file.
    pub(crate) line: i64,
    /// `email`, `name`, `phone` or `row`.
    pub(crate) column: String,
    pub(crate) code: String,
    pub(crate) message: String,
    /// As a line of CSV.
    pub(crate) row: String,
}

/// At most `limit` of them, behind `after`.
pub(crate) async fn errors(
    pool: &PgPool,
    id: ImportId,
    after: &(i64, String),
    limit: i64,
) -> Result<Vec<RowError>, sqlx::Error> {
    let rows =
        sqlx::query(ERRORS).bind(id.to_string()).bind(after.0).bind(&after.1).bind(limit).fetch_all(pool).await?;
    let error = |row: &sqlx::postgres::PgRow| {
        Ok(RowError {
            line: row.try_get(0)?,
            column: row.try_get(1)?,
            code: row.try_get(2)?,
            message: row.try_get(3)?,
            row: row.try_get(4)?,
        })
    };
    rows.iter().map(error).collect()
}
