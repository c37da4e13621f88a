"""HTTP to providers: sessions, proxies, exchanges, bodies."""
