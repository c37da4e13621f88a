"""Math: compares mathematical answers by value."""
