//! The patient's calendar. The days of a directive are days of it, and nobody tells its zone.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::Offset;

/// The civil times of the countries that exchange lie between UTC-4 (Martinique) and UTC+4 (Réunion).
const ZONES: [Offset; 2] = [Offset::constant(-4), Offset::constant(4)];

/// The days that an instant may be on: one, or around midnight two.
pub(super) fn days(at: Timestamp) -> impl Iterator<Item = Date> {
    let [first, last] = ZONES.map(|zone| zone.to_datetime(at).date());
    std::iter::once(first).chain((last != first).then_some(last))
}
