"""Reporting: results side by side, as tables and sentences, as one HTML file, beside published figures."""
