// Next runs this in each server process before the first request, once for each of its runtimes.

export async function register() {
  if (process.env.NEXT_RUNTIME === 'nodejs') {
    const { sessionCacheHealthCheck } = await import('@studio/redis-native');
    const { endOnSignal } = await import('./lib/ending');
    // Next leaves signals to us where this is set, which is never in `next dev`.
    if (process.env.NEXT_MANUAL_SIG_HANDLE) endOnSignal();
    // It connects before the first request. Not waited for: a server that is away must not keep this one from starting.
    void sessionCacheHealthCheck();
  }
}
