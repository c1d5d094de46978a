//! Writes in batches of 1, 2, 4, ..., so that what fails for all (a quota that is used up, a webhook that is away) costs one request and
//! not hundreds.

use futures::future::BoxFuture;

/// What became of it.
pub(crate) struct Report<E> {
    /// The failures of the last batch.
    pub(crate) errors: Vec<E>,
    /// How many were not tried, because the batch before failed.
    pub(crate) skipped: usize,
}

/// Runs `work` on all items in batches that double in size, up to `batch_max`; stops after the first batch with a failure.
pub(crate) async fn slow_start<'a, T, E: 'a>(
    items: Vec<T>,
    batch_max: usize,
    work: impl Fn(T) -> BoxFuture<'a, Result<(), E>>,
) -> Report<E> {
    let mut left = items.len();
    let mut items = items.into_iter();
    let mut size = 1;
    while left > 0 {
        let batch: Vec<_> = items.by_ref().take(size).map(&work).collect();
        left -= batch.len();
        let results = futures::future::join_all(batch).await;
        let errors: Vec<E> = results.into_iter().filter_map(Result::err).collect();
        if !errors.is_empty() {
            return Report { errors, skipped: left };
        }
        size = (size * 2).min(batch_max);
    }
    Report { errors: Vec::new(), skipped: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use parking_lot::Mutex;

    #[tokio::test]
    async fn batches_double_until_one_fails() {
        // (items, largest batch, items that fail, tried, failed, skipped)
        for (count, max, failing, tried, failed, skipped) in [
            (0, 500, &[][..], 0, 0, 0),
            (7, 500, &[], 7, 0, 0),
            (100, 500, &[0], 1, 1, 99),
            (100, 500, &[1, 2], 3, 2, 97),
            (100, 500, &[3], 7, 1, 93),
            (100, 2, &[4], 5, 1, 95),
        ] {
            let seen = Mutex::new(0);
            let work = |item: usize| {
                *seen.lock() += 1;
                std::future::ready(if failing.contains(&item) { Err(item) } else { Ok(()) }).boxed()
            };
            let report = slow_start((0..count).collect(), max, work).await;
            assert_eq!(
                (*seen.lock(), report.errors.len(), report.skipped),
                (tried, failed, skipped),
                "{count} {max} {failing:?}"
            );
        }
    }
}
