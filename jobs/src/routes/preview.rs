//! `POST /v1/imports/preview`: how the begin of a file is read. Nothing is kept.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{Query, State, rejection::QueryRejection},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Serialize;

use super::ReadingParameters;
use crate::{
    app::App,
    error::Error,
    header::{self, Column},
    refusal::Refusal,
    table::{RowView, Table},
    text::Text,
};

/// A page sends so much of a file; a row may have as much.
const BODY_BYTES_MAX: usize = 256 << 10;
const ROWS_MAX: usize = 5;

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Preview {
    encoding: &'static str,
    delimiter: char,
    columns: Vec<Column>,
    /// Why it can't be imported like this; also when no column is known to hold e-mail addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
    /// `[line, [field, …]]`
    rows: Vec<(u64, Vec<String>)>,
}

/// 200, also for a file whose columns are still to be chosen; 422 for one that can't be read.
pub(crate) async fn preview(
    State(app): State<Arc<App>>,
    parameters: Result<Query<ReadingParameters>, QueryRejection>,
    body: Body,
) -> Result<Json<Preview>, Error> {
    let _place = app.place()?;
    let Query(parameters) = parameters?;
    let reading = parameters.reading()?;
    let begin = tokio::time::timeout(app.config.upload_idle_max, Limited::new(body, BODY_BYTES_MAX).collect());
    let begin = begin.await.map_err(|_| Error::Idle)?.map_err(broken)?.to_bytes();
    let (mut text, mut table) = (Text::new(reading.written), Table::new(reading.delimiter));
    let mut rows = Vec::new();
    let keep = |row: RowView<'_>| {
        if rows.len() <= ROWS_MAX {
            rows.push((row.line, row.fields().map(str::to_owned).collect::<Vec<_>>()));
        }
        Ok(())
    };
    // The begin may end within a row, or within a character.
    let taken = table.take(text.decode(&begin, false)?, keep);
    if rows.is_empty() {
        taken?;
        let end = |row: RowView<'_>| {
            rows.push((row.line, row.fields().map(str::to_owned).collect()));
            Ok(())
        };
        table.end(end)?;
    }
    if rows.is_empty() {
        return Err(Refusal::of_file("empty-file", "the file is empty; its first row must be the header").into());
    }
    let (line, titles) = rows.remove(0);
    let (columns, refused) = match header::columns(&titles, line, &reading.asked) {
        Ok(columns) => (header::described(&titles, columns), None),
        Err(refusal) => {
            let bare = |title| Column { title, holds: None };
            (titles.into_iter().map(bare).collect(), Some(refusal.to_string()))
        }
    };
    let delimiter = char::from(table.delimiter());
    Ok(Json(Preview { encoding: text.encoding(), delimiter, columns, refused, rows }))
}

fn broken(error: Box<dyn std::error::Error + Send + Sync>) -> Error {
    match error.is::<LengthLimitError>() {
        true => Error::TooLarge(BODY_BYTES_MAX as u64),
        false => Error::BrokenBody(error.to_string()),
    }
}
