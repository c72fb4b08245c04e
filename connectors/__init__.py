"""Everything outside the process: databases and stores, behind records that name no product."""
