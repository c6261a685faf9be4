"""Far folders (`s3://`, `https://` and others) as local ones: fetched into a mirror, and results uploaded."""
