//! The error file: a line of CSV per error, sent while it is read, so that memory is flat.

use std::fmt::Write as _;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use shared::import::ImportId;
use sqlx::PgPool;

use crate::queries::{self, RowError};

const HEADER: &str = "line,column,code,message,row\r\n";
/// Errors of one query.
const PAGE: i64 = 1000;

/// The file. An error of the database cuts it off, which a client sees as such.
pub(crate) fn file(pool: PgPool, id: ImportId) -> impl Stream<Item = Result<Bytes, sqlx::Error>> {
    let next = move |after: (i64, String)| {
        let pool = pool.clone();
        async move {
            let page = queries::errors(&pool, id, &after, PAGE).await?;
            let last = page.last().map(|error| (error.line, error.column.clone()));
            Ok(last.map(|last| (page, last)))
        }
    };
    let pages = stream::try_unfold((0, String::new()), next).map_ok(|page| Bytes::from(lines(&page)));
    stream::once(async { Ok(Bytes::from_static(HEADER.as_bytes())) }).chain(pages)
}

fn lines(page: &[RowError]) -> String {
    let mut text = String::new();
    for error in page {
        let RowError { line, column, code, message, row } = error;
        let (column, code, message, row) = (cell(column), cell(code), cell(message), cell(row));
        let _ = write!(text, "{line},{column},{code},{message},{row}\r\n");
    }
    text
}

const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];
/// Where something else than a comma stands between cells, a spreadsheet does not see this file's quotes: a cell begins behind one of
/// these within them. Commas split nothing there, and phone numbers stand behind them.
const SPLITS: [char; 5] = [';', '\t', '|', '\r', '\n'];

/// A cell in quotes. What a spreadsheet would take for a formula gets an apostrophe before it, which shows it as text (OWASP, CSV
/// injection).
fn cell(text: &str) -> String {
    let mut cell = String::from(if text.starts_with(['\t', '\r', '\n']) { "\"'" } else { "\"" });
    let mut is_begin = true;
    for char in text.chars() {
        if is_begin && FORMULA.contains(&char) {
            cell.push('\'');
        }
        // A quote is no part of what a cell says.
        is_begin = SPLITS.contains(&char) || (is_begin && char == '"');
        cell.push(char);
        if char == '"' {
            cell.push('"');
        }
    }
    cell.push('"');
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_formulas_are_text() {
        for (text, expected) in [
            ("a,b", "\"a,b\""),
            ("say \"hi\"\n", "\"say \"\"hi\"\"\n\""),
            ("=cmd|'/c calc'!A1", "\"'=cmd|'/c calc'!A1\""),
            ("+49", "\"'+49\""),
            ("-1", "\"'-1\""),
            ("@x", "\"'@x\""),
            ("\t=1", "\"'\t'=1\""),
            ("a;=1", "\"a;'=1\""),
            ("a\n\n@1", "\"a\n\n'@1\""),
            ("\"a;\"\"=1\"", "\"\"\"a;\"\"\"\"'=1\"\"\""),
            ("a,+4420,a=b", "\"a,+4420,a=b\""),
            ("", "\"\""),
        ] {
            assert_eq!(cell(text), expected);
        }
        let error =
            RowError { line: 3, column: "email".into(), code: "c".into(), message: "m".into(), row: "=1".into() };
        assert_eq!(lines(&[error]), "3,\"email\",\"c\",\"m\",\"'=1\"\r\n");
    }
}
