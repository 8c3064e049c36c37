//! The change log as the library's relay reads it: positions to places, pages to events, errors to what operators see.

use std::{collections::BTreeMap, time::Duration};

use messaging::{
    relay::{Positions, RelayEvent, RelayPosition, RelaySource, Stretch, StretchLimits},
    transaction::Output,
};

use super::{
    event,
    standing::Standing,
    stretch::{Expired, Rows, stretch},
};
use crate::{
    error::StoreError,
    store::{
        self, Primary,
        change_log::{ChangeLog, LogEnds, LogPage, Place, Places, Served},
    },
};

/// How long the database may take for one page; the server gives up a little earlier.
const READ_MAX: Duration = Duration::from_secs(35);

/// Why the log can't be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The environment; waited out.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A replica that lags; waited out.
    #[error("view-behind: this database has not seen yet that generation {0} is served, whose changes are relayed")]
    SwitchUnseen(i32),
    /// An operator's decision.
    #[error(
        "position-expired: the change log no longer holds what the relay has not relayed of partition {}, from offset {} up to \
         {}; what is missing stays missing, so tell the topic's consumers, then: writer relay set --to floor --reason TEXT",
        .0.partition, .0.next_offset, .0.floor
    )]
    Expired(Expired),
}

/// The change log of one view.
pub(super) struct ChangeLogSource {
    log: ChangeLog,
    /// Topic that the view is made of.
    of: String,
    /// Topic of the events, and its partitions.
    to: String,
    to_partitions: i32,
    standing: Standing,
}

impl ChangeLogSource {
    pub(super) fn new(database: &Primary, of: &str, to: &str, standing: Standing) -> Self {
        let log = ChangeLog::new(store::connect_options(database, "siteview"), of);
        Self { log, of: of.to_owned(), to: to.to_owned(), to_partitions: 0, standing }
    }

    async fn bounded<T>(
        log: &mut ChangeLog,
        read: impl AsyncFnOnce(&mut ChangeLog) -> Result<T, StoreError>,
    ) -> Result<T, ReadError> {
        let done = tokio::time::timeout(READ_MAX, read(log)).await;
        let done = done.unwrap_or(Err(StoreError::TimedOut(READ_MAX)));
        if done.is_err() {
            log.disconnect();
        }
        Ok(done?)
    }

    /// Events of a stretch; first of all, that the log goes on in another generation.
    fn outputs(&self, rows: Rows, previous: Option<Served>, Served { generation, .. }: Served) -> Vec<Output> {
        let mut outputs = Vec::with_capacity(rows.rows.len());
        if let Some(Served { generation: previous, .. }) = previous.filter(|served| served.generation != generation) {
            tracing::warn!(previous, generation, "the change log goes on in another generation");
            let records: i64 = rows.to.values().map(|place| place.offset + 1).sum();
            let told =
                |partition| event::generation_changed(&self.to, &self.of, partition, (previous, generation), records);
            outputs.extend((0..self.to_partitions).map(told));
        }
        outputs.extend(rows.rows.into_iter().map(|row| event::changed(&self.to, &self.of, row)));
        outputs
    }
}

impl RelaySource for ChangeLogSource {
    type Error = ReadError;

    async fn begin(&mut self) -> Result<Positions, ReadError> {
        let (served, ends) = Self::bounded(&mut self.log, ChangeLog::ends).await?;
        if ends.is_empty() {
            return Err(StoreError::NotMigrated("positions yet; nobody has fed it").into());
        }
        tracing::info!(
            generation = served.generation,
            "nothing was relayed before; beginning with the oldest change that is kept"
        );
        Ok(positions(served, &earliest(&ends)))
    }

    async fn read(&mut self, after: &Positions, limits: StretchLimits) -> Result<Stretch, ReadError> {
        let (places, previous) = (places(after), served(after));
        let partitions = places.len().max(1);
        let rows_max = (limits.records_max / partitions).max(1);
        let bytes_max = limits.bytes_max / partitions;
        let read = async |log: &mut ChangeLog| log.page(&places, rows_max, bytes_max).await;
        let page = Self::bounded(&mut self.log, read).await?;
        let (served, lags) = (page.served, lags(&page, &places));
        if let Some(previous) = previous.filter(|previous| previous.activation > served.activation) {
            return Err(ReadError::SwitchUnseen(previous.generation));
        }
        let rows = stretch(page, &places, limits.records_max).map_err(ReadError::Expired)?;
        self.standing.read(&lags);
        let (to, is_last) = (positions(served, &rows.to), rows.is_last);
        Ok(Stretch { outputs: self.outputs(rows, previous, served), to, is_last })
    }

    fn observe(&mut self, event: RelayEvent<'_, ReadError>) {
        if let RelayEvent::Opened { partitions } = event {
            self.to_partitions = partitions;
        }
        self.standing.hear(&event);
    }
}

/// Records of the source between what is relayed and the view's position; negative where the view is behind.
fn lags(page: &LogPage, places: &Places) -> BTreeMap<i32, i64> {
    let relayed = |partition: &i32| places.get(partition).copied().unwrap_or(Place::START).offset + 1;
    page.partitions.iter().map(|(partition, page)| (*partition, page.next_offset - relayed(partition))).collect()
}

pub(super) fn earliest(ends: &BTreeMap<i32, LogEnds>) -> Places {
    ends.iter().map(|(partition, ends)| (*partition, ends.earliest)).collect()
}

pub(super) fn latest(ends: &BTreeMap<i32, LogEnds>) -> Places {
    ends.iter().map(|(partition, ends)| (*partition, ends.latest)).collect()
}

/// Places as Kafka keeps them: the offset, and `<generation>/<activation>/<ordinal>` beside it.
pub(super) fn positions(Served { generation, activation }: Served, places: &Places) -> Positions {
    let position = |place: &Place| RelayPosition {
        next_offset: place.offset + 1,
        detail: format!("{generation}/{activation}/{}", place.ordinal),
    };
    places.iter().map(|(partition, place)| (*partition, position(place))).collect()
}

fn places(positions: &Positions) -> Places {
    let place = |position: &RelayPosition| Place {
        offset: position.next_offset - 1,
        ordinal: detail(position).map_or(0, |(_, ordinal)| ordinal),
    };
    positions.iter().map(|(partition, position)| (*partition, place(position))).collect()
}

/// Whose log was read last; `None` where somebody has set the offsets with Kafka's tools.
fn served(positions: &Positions) -> Option<Served> {
    positions.values().find_map(detail).map(|(served, _)| served)
}

fn detail(position: &RelayPosition) -> Option<(Served, i32)> {
    let mut parts = position.detail.splitn(3, '/');
    let served = Served { generation: parts.next()?.parse().ok()?, activation: parts.next()?.parse().ok()? };
    Some((served, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_from_kafka_as_they_went() {
        let (of, at) = (Served { generation: 4, activation: 9 }, Place { offset: 1207, ordinal: 2 });
        let at = Places::from([(0, Place::START), (3, at)]);
        let kept = positions(of, &at);
        assert_eq!((kept[&0].next_offset, kept[&3].next_offset, kept[&3].detail.as_str()), (0, 1208, "4/9/2"));
        assert_eq!((places(&kept), served(&kept)), (at, Some(of)));
    }

    #[test]
    fn offsets_that_a_tool_has_set_are_taken_as_they_are() {
        let set = Positions::from([(1, RelayPosition { next_offset: 7, detail: String::new() })]);
        assert_eq!((places(&set), served(&set)), (Places::from([(1, Place::before(7))]), None));
    }
}
