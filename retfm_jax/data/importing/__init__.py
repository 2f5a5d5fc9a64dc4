"""What people hand over: tables of patients, spreadsheets, published containers."""
