//! What makes SQL do the same on every node: the clock and the random numbers of the present transaction.
//!
//! "Now" is the time of the record that is being made or replayed, for `CURRENT_TIMESTAMP`, `datetime('now')` and all the
//! others alike: SQLite asks the VFS, and the shim asks here. `random()` and `randomblob()` are replaced by functions that
//! draw from a generator (ChaCha12) seeded by the record's seed, its index and the transaction's number in the group, so
//! no two transactions draw the same. The seed comes from the system and is drawn when a group first needs it.
//!
//! Both belong to the thread that runs the group; other threads see SQLite's own.

use std::cell::{Cell, RefCell};

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, Error};

/// Milliseconds between noon of 24 November 4714 BC, where SQLite's clock begins, and 1970.
const JULIAN_1970_MS: i64 = 210_866_760_000_000;

/// What one call may make: the limit on values of clients' connections.
const LONGEST_BLOB: i64 = 256 << 20;

#[derive(Default)]
struct Chance {
    /// 0: not drawn yet.
    seed: u64,
    index: u64,
    number: u32,
    generator: Option<ChaCha12Rng>,
}

thread_local! {
    /// Julian milliseconds; 0: not pinned.
    static NOW: Cell<i64> = const { Cell::new(0) };
    static CHANCE: RefCell<Chance> = RefCell::default();
}

/// Pins the clock for the group that makes or replays record `index`. `seed` is that of a record that is replayed.
pub(crate) fn begin_group(unix_ms: u64, index: u64, seed: u64) {
    NOW.set(i64::try_from(unix_ms).unwrap_or(0).saturating_add(JULIAN_1970_MS));
    CHANCE.set(Chance { seed, index, number: 0, generator: None });
}

/// From here on the numbers are those of the group's `number`th transaction, from its beginning.
pub(crate) fn begin_transaction(number: u32) {
    CHANCE.with_borrow_mut(|chance| (chance.number, chance.generator) = (number, None));
}

pub(crate) fn end_group() {
    NOW.set(0);
}

/// The group's seed; 0 when nothing was drawn.
pub(crate) fn seed() -> u64 {
    CHANCE.with_borrow(|chance| chance.seed)
}

/// The pinned time in SQLite's unit.
pub(crate) fn now() -> Option<i64> {
    Some(NOW.get()).filter(|now| *now != 0)
}

fn draw<T>(take: impl FnOnce(&mut ChaCha12Rng) -> T) -> rusqlite::Result<T> {
    CHANCE.with_borrow_mut(|chance| {
        if chance.seed == 0 {
            let drawn = getrandom::u64().map_err(|error| Error::UserFunctionError(error.to_string().into()))?;
            chance.seed = drawn.max(1);
        }
        let Chance { seed, index, number, generator } = chance;
        let generator = generator.get_or_insert_with(|| {
            let mut key = [0; 32];
            for (place, part) in key.chunks_mut(8).zip([*seed, *index, u64::from(*number), 0]) {
                place.copy_from_slice(&part.to_le_bytes());
            }
            ChaCha12Rng::from_seed(key)
        });
        Ok(take(generator))
    })
}

/// Puts the seeded functions in the place of SQLite's on a connection that runs groups.
pub(crate) fn install(connection: &Connection) -> rusqlite::Result<()> {
    // Innocuous: allowed in triggers and defaults, as SQLite's own are.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_INNOCUOUS;
    connection.create_scalar_function("random", 0, flags, |_| {
        // As SQLite's own: abs() of it must not overflow.
        draw(|generator| (generator.next_u64() as i64).max(-i64::MAX))
    })?;
    connection.create_scalar_function("randomblob", 1, flags, |context| {
        let length = match context.get_raw(0) {
            rusqlite::types::ValueRef::Integer(length) => length,
            rusqlite::types::ValueRef::Real(length) => length as i64,
            _ => context.get::<Option<String>>(0).ok().flatten().and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        };
        if length > LONGEST_BLOB {
            return Err(Error::UserFunctionError("string or blob too big".into()));
        }
        let mut blob = vec![0; length.max(1) as usize];
        draw(|generator| generator.fill_bytes(&mut blob))?;
        Ok(blob)
    })
}
