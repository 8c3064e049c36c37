//! How verbs answer: JSON for programs, columns for people.

use serde_json::Value;

/// Longest cell for people.
const CELL_CHARS_MAX: usize = 60;

/// Prints a line.
#[expect(clippy::print_stdout, reason = "a verb answers on standard output")]
pub(super) fn text(line: &str) {
    println!("{line}");
}

/// Prints rows: as they are, or these members of each.
pub(super) fn rows(json: bool, rows: &Value, columns: &[&str]) {
    match (json, rows.as_array()) {
        (false, Some(rows)) => text(&table(rows, columns)),
        _ => text(&rows.to_string()),
    }
}

fn table(rows: &[Value], columns: &[&str]) -> String {
    let header = columns.iter().map(|column| column.to_uppercase().replace('_', " ")).collect();
    let cells = |row: &Value| columns.iter().map(|column| cell(&row[*column])).collect();
    let lines: Vec<Vec<String>> = std::iter::once(header).chain(rows.iter().map(cells)).collect();
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let padded = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(padded).collect::<Vec<_>>().join("\n")
}

fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => String::new(),
        Value::String(text) => text.replace(['\n', '\r'], " "),
        other => other.to_string(),
    };
    match text.char_indices().nth(CELL_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let rows = [json!({"a_b": "x", "n": 3, "other": 1}), json!({"a_b": "long\nword", "n": null})];
        assert_eq!(table(&rows, &["a_b", "n"]), "A B        N\nx          3\nlong word");
        assert_eq!(cell(&json!("x".repeat(100))).chars().count(), CELL_CHARS_MAX + 1);
    }
}
