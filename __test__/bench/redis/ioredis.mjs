// How ioredis is opened: as a peer, and to fill the servers.

import { Cluster, Redis } from 'ioredis';

export function openRedis({ through, redisUrl, tlsUrl, clusterUrls, ca }, options = {}) {
  switch (through) {
    case 'tls':
      return new Redis(tlsUrl, { ...options, tls: { ca } });
    case 'cluster':
      return new Cluster(clusterUrls, options);
    default:
      return new Redis(redisUrl, options);
  }
}
