-- Names and vector of a row lie together.
UPDATE gallery SET version = 5;
ROWS;
DROP TABLE items;
