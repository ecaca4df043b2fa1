mod cases;
mod model;
mod table;
