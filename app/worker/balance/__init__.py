"""Which server: the pool, its snapshot, the queue, who is bound to whom. No sockets."""
