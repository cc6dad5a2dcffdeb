//! The database: tables, transactions, schema version, migrations.
