"""The one process that judges: active health checks, outliers, stalls. It never touches a request."""
