//! What a running partition waits for, as operators see it. Nothing depends on it.

use sqlx::PgConnection;

use crate::{batch::Tenure, error::StoreError};

const NOTE: &str = r#"
    update position set waits_for = $4, waits_since = case when $4::text is not null then now() end
    where topic = $1 and partition = $2 and epoch = $3 and waits_for is distinct from $4"#;

/// See [`super::Transaction::note_wait`]. A claim that is over notes nothing.
pub(super) async fn note(
    connection: &mut PgConnection,
    topic: &str,
    tenure: &Tenure,
    waits_for: Option<&str>,
) -> Result<(), StoreError> {
    let note = sqlx::query(NOTE).bind(topic).bind(tenure.partition).bind(tenure.epoch).bind(waits_for);
    note.execute(connection).await?;
    Ok(())
}
