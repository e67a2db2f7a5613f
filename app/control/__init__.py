"""The one process that judges servers: health checks, outliers, stalls. It never touches a request."""
