"""From files to models: import, splits, evaluation, and the Ray jobs that train each tier."""
