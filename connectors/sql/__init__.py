"""The hub's memory in a SQL database: SQLite, PostgreSQL, MariaDB, one schema and one set of statements for all."""
