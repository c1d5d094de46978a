//! When a failed key may be tried again. Numbers are client-go's `DefaultTypedControllerRateLimiter`.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tower::{Layer, Service};

/// Delay that doubles with every failure of the same item.
#[derive(Debug)]
pub struct ExponentialBackoff<T> {
    base: Duration,
    max: Duration,
    failures: HashMap<T, u32>,
}

impl<T: Eq + Hash + Clone> ExponentialBackoff<T> {
    /// Delays `base`, 2 x `base`, 4 x `base`, ... up to `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, failures: HashMap::new() }
    }

    /// The delay for this item's next attempt; counts one failure.
    pub fn next(&mut self, item: &T) -> Duration {
        let failures = self.failures.entry(item.clone()).or_insert(0);
        let factor = 2f64.powi(i32::try_from(*failures).unwrap_or(i32::MAX));
        *failures = failures.saturating_add(1);
        let seconds = (self.base.as_secs_f64() * factor).min(self.max.as_secs_f64());
        Duration::from_secs_f64(seconds)
    }

    /// Failures counted since the last [`ExponentialBackoff::forget`].
    pub fn failures(&self, item: &T) -> u32 {
        self.failures.get(item).copied().unwrap_or(0)
    }

    /// The item succeeded.
    pub fn forget(&mut self, item: &T) {
        self.failures.remove(item);
    }
}

/// Tokens that refill at a constant rate, with a burst.
#[derive(Debug)]
pub struct TokenBucket {
    per_second: f64,
    burst: f64,
    tokens: f64,
    updated: Instant,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(per_second: f64, burst: u32) -> Self {
        Self { per_second, burst: f64::from(burst), tokens: f64::from(burst), updated: Instant::now() }
    }

    fn refill(&mut self, now: Instant) {
        let gained = now.duration_since(self.updated).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.burst);
        self.updated = now;
    }

    /// Takes a token if there is one.
    pub fn try_take(&mut self) -> bool {
        self.try_take_at(Instant::now())
    }

    fn try_take_at(&mut self, now: Instant) -> bool {
        self.refill(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Takes a token, possibly a future one, and tells how long to wait for it.
    pub fn reserve(&mut self) -> Duration {
        self.reserve_at(Instant::now())
    }

    fn reserve_at(&mut self, now: Instant) -> Duration {
        self.refill(now);
        self.tokens -= 1.0;
        if self.tokens >= 0.0 { Duration::ZERO } else { Duration::from_secs_f64(-self.tokens / self.per_second) }
    }
}

/// The larger of the item's own back-off and the queue's overall bucket.
#[derive(Debug)]
pub struct RateLimiter<T> {
    item: ExponentialBackoff<T>,
    overall: Option<TokenBucket>,
}

impl<T: Eq + Hash + Clone> RateLimiter<T> {
    /// Only the item's own back-off.
    pub fn item(base: Duration, max: Duration) -> Self {
        Self { item: ExponentialBackoff::new(base, max), overall: None }
    }

    /// The delay for this item's next attempt.
    pub fn next(&mut self, item: &T) -> Duration {
        let own = self.item.next(item);
        let overall = self.overall.as_mut().map_or(Duration::ZERO, TokenBucket::reserve);
        own.max(overall)
    }

    /// Failures counted for the item.
    pub fn failures(&self, item: &T) -> u32 {
        self.item.failures(item)
    }

    /// The item succeeded.
    pub fn forget(&mut self, item: &T) {
        self.item.forget(item);
    }
}

impl<T: Eq + Hash + Clone> Default for RateLimiter<T> {
    /// 5 ms to 1000 s per item; 10 a second with a burst of 100 overall.
    fn default() -> Self {
        Self {
            item: ExponentialBackoff::new(Duration::from_millis(5), Duration::from_secs(1000)),
            overall: Some(TokenBucket::new(10.0, 100)),
        }
    }
}

/// Delays requests so that no more of them are sent than a bucket allows. Clones share the bucket.
#[derive(Clone, Debug)]
pub(crate) struct RateLimitLayer(Arc<Mutex<TokenBucket>>);

impl RateLimitLayer {
    /// So many a second, and so many at once.
    pub(crate) fn new((per_second, burst): (f64, u32)) -> Self {
        Self(Arc::new(Mutex::new(TokenBucket::new(per_second, burst))))
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimited<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RateLimited { inner, bucket: self.0.clone() }
    }
}

/// A service behind a [`RateLimitLayer`].
#[derive(Clone, Debug)]
pub(crate) struct RateLimited<S> {
    inner: S,
    bucket: Arc<Mutex<TokenBucket>>,
}

impl<S, R> Service<R> for RateLimited<S>
where
    S: Service<R> + Clone + Send + 'static,
    S::Future: Send,
    R: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // The instance that is ready, not its clone, gets the request.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let delay = self.bucket.lock().reserve();
        Box::pin(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            inner.call(request).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn item_backoff_doubles_to_its_limit_and_forgets() {
        let mut limiter: RateLimiter<&str> = RateLimiter::default();
        let delays: Vec<_> = (0..4).map(|_| limiter.next(&"a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        assert_eq!(limiter.next(&"b").as_millis(), 5);
        for _ in 0..30 {
            limiter.item.next(&"a");
        }
        assert_eq!(limiter.item.next(&"a"), Duration::from_secs(1000));
        limiter.forget(&"a");
        assert_eq!(limiter.failures(&"a"), 0);
    }

    #[test]
    fn the_bucket_reserves_ahead_and_refills() {
        let mut bucket = TokenBucket::new(10.0, 100);
        let start = bucket.updated;
        let delays: Vec<_> = (0..102).map(|_| bucket.reserve_at(start).as_millis()).collect();
        assert_eq!(delays[99], 0);
        assert_eq!(delays[100], 100);
        assert_eq!(delays[101], 200);
        let later = start + Duration::from_secs(1);
        assert_eq!(bucket.reserve_at(later), Duration::ZERO);
    }

    #[test]
    fn an_empty_bucket_refuses_until_refilled() {
        let mut bucket = TokenBucket::new(1.0, 2);
        let start = bucket.updated;
        let taken = [(); 3].map(|()| bucket.try_take_at(start));
        assert_eq!(taken, [true, true, false]);
        let later = start + Duration::from_millis(1100);
        assert_eq!([(); 2].map(|()| bucket.try_take_at(later)), [true, false]);
    }

    #[tokio::test]
    async fn requests_over_the_rate_wait() {
        let service = tower::service_fn(|(): ()| async { Ok::<_, std::convert::Infallible>(Instant::now()) });
        let layer = RateLimitLayer::new((50.0, 1));
        let (mut first, mut second) = (layer.layer(service), layer.layer(service));
        let start = Instant::now();
        let at = [first.call(()).await, second.call(()).await, first.call(()).await];
        let at = at.map(|sent| sent.expect("cannot fail").duration_since(start));
        // They share the bucket: the second and the third waited, however fast the machine is.
        assert!(at[1] >= Duration::from_millis(15) && at[2] >= Duration::from_millis(30), "{at:?}");
    }
}
